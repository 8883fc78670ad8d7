"""What is compared: frozen encoders and their controls, and windows spoilt before they see them."""
