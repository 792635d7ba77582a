"""`torchrun ... -m tests.distil.two_processes FOLDER SETTINGS`: a training that two processes share; each says what it
has."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from tandem.distil.processes import joined
from tandem.distil.training import train
from tests.distil.answers import lessons, llama, settings, student_of, write

folder = Path(sys.argv[1])
target = llama()
with joined() as processes:
    student = student_of(target)
    lesson = lessons(write(target, 120), folder / "training")
    course = train(student, lesson, settings(**json.loads(sys.argv[2])), seed=7, processes=processes)
    digest = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in student.own().values()))
    facts = {"digest": digest.hexdigest(), "reports": course.reports}
    (folder / f"{processes.rank}.json").write_text(json.dumps(facts))
