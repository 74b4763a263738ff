"""The ways in which continuing goes wrong, each made to happen: what stock Trainer does, what we say, and when.

`python -m tests.catalogue` (make catalogue) runs both sides of every case and writes docs/resuming.md. The slow test beside it
(tests/engine/resume/test_catalogue.py) runs our side and holds it against what is expected here. A case changes a copy of one
stopped run, with the manifest's file digests made to fit wherever files were changed: whoever tampers would do that too.
"""
