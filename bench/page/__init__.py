"""The page that `python -m bench report` writes: what benches measured, in one file that needs nothing else."""
