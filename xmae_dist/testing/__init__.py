"""What tests and the demo stand on: a real S3 protocol server, conformance suites, fault injection."""
