"""What a score is: metrics, folds without a shared subject, intervals by resampling subjects."""
