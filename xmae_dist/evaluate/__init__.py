"""Downstream evaluation of frozen encoders: tasks, subject-wise probes, bootstrap over subjects, report."""
