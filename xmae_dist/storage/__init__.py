"""The corpus on object storage: Zarr v3 signals, a Delta Lake index, snapshots. See storage/FORMAT.md."""
