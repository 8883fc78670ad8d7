"""What turns a batch into a step of the optimizer: one protocol, plain torch and DeepSpeed behind it."""
