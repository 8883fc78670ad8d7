"""Re-embedding of cohorts into one transactional table: backlog, request, encode, publish."""
