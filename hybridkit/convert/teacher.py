"""The teacher of a conversion: a run, or a checkpoint of transformers, which becomes a run within the conversion."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from hybridkit.data.cache import digest_of
from hybridkit.data.tokenizer import SAVED, Tokenizer
from hybridkit.data.tokenizer_choice import run_tokenizer
from hybridkit.evaluation.provenance import run_origin
from hybridkit.hub.files import check_links
from hybridkit.hub.importing import ENGINE, describe_folder, import_folder
from hybridkit.hub.repository import local_folder
from hybridkit.model.loading import load_model
from hybridkit.model.loading import plan as compile_recipe
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.recipe.files import Loaded
from hybridkit.runs.manifest import WEIGHTS, stamp
from hybridkit.runs.run import Run, Which
from hybridkit.system.errors import UserError
from hybridkit.system.files import FILES, write_whole

MADE_OF = "source"  # in an imported teacher's folder: a hash of the files that it was made of


class TeacherRun(NamedTuple):
    """A checkpoint of a run: its weights are read when they are needed."""

    run: Run
    step: int
    sha256: str  # of its weights
    plan: Plan
    tokenizer: Tokenizer
    data: str  # digest of what it was trained on
    fingerprint: str  # of everything that its answers depend on (`evaluation.provenance`)

    def load(self) -> Model:
        """The model, on the CPU, without gradients."""
        return load_model(self.run.path, self.step)


def open_teacher(source: str, copy: Path, checkpoint: Which = None, begun: bool = False) -> TeacherRun:
    """The teacher that `source` names: a run folder, or a folder of transformers, which is imported as the run `copy`.

    `checkpoint`: of a run (`Run.chosen`). `begun`: a conversion has begun with `copy`, which is not made anew.

    Raises UserError where it is neither, or holds no such valid checkpoint, or `copy` was made of another folder.
    """
    run = Run(source)
    if not run.begun:
        _import(source, run := Run(copy), begun)
    found, manifest = run.chosen(checkpoint)
    teacher, code = _teacher(run), manifest.code or {}
    origin = run_origin(run.recipe.recipe, manifest, WEIGHTS, teacher.tokenizer.digest, code, None)
    return teacher._replace(step=found.step, sha256=origin.weights, data=manifest.data, fingerprint=origin.fingerprint)


def _import(source: str, copy: Run, begun: bool) -> None:
    """A folder of transformers as the run `copy`, unless that was made of the same files."""
    folder = local_folder(source)
    check_links(folder)
    digest, said = _digest(folder).encode(), copy.path / MADE_OF
    before = said.read_bytes() if said.is_file() else None
    if copy.begun and (before == digest or (begun and before is None)):  # older versions wrote no hash
        return
    if copy.begun and begun:
        raise UserError(
            f"{source} is not what {copy.path}, the teacher of this conversion, was made of; name {copy.path} as the"
            " teacher to go on with it, or another folder with --run"
        )
    if (record := copy.record()) and record.engine == ENGINE:
        FILES.remove(copy.path)
    import_folder(folder, copy.path)
    write_whole(said, digest)


def _digest(folder: Path) -> str:
    """A hash of the files that an import reads."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors") and path.is_file())
    return digest_of([(path.name, stamp(path).sha256) for path in files])


def describe_teacher(source: str, scratch: Path, checkpoint: Which = None) -> TeacherRun:
    """As `open_teacher`, without weights: `load` must not be called.

    Recipe and tokenizer of a folder of transformers are written to the folder `scratch`. Raises UserError as
    `open_teacher` does, except for what only the weights show.
    """
    run = Run(source)
    if run.begun:
        run.check_has(checkpoint)
    else:
        run = Run(scratch)
        describe_folder(local_folder(source), run)
    return _teacher(run)


def _teacher(run: Run) -> TeacherRun:
    """The teacher that a run is, by its recipe and tokenizer; its weights are not looked at."""
    loaded = run.recipe
    tokenizer = run_tokenizer(run, loaded.recipe.rules, loaded.registry)
    plan = compile_recipe(loaded, vocab=max(tokenizer.vocab, loaded.recipe.model.vocab or 0))
    return TeacherRun(run, 0, "", plan, tokenizer, "", "")


def with_tokens(loaded: Loaded, teacher: TeacherRun) -> Loaded:
    """The student's recipe with the teacher's tokenizer and vocabulary. Raises UserError where it names another."""
    recipe, own = loaded.recipe, teacher.tokenizer.digest
    said = recipe.data.tokenizer
    if said not in ("bytes", teacher.run.recipe.recipe.data.tokenizer):
        raise UserError(f"data.tokenizer: {said}: the student reads the teacher's tokens; leave data.tokenizer out")
    named = "bytes" if own == "bytes" else str((teacher.run.path / SAVED).resolve())
    data = recipe.data.model_copy(update={"tokenizer": named})
    model = recipe.model.model_copy(update={"vocab": recipe.model.vocab or teacher.plan.dims.vocab})
    return loaded._replace(recipe=recipe.model_copy(update={"data": data, "model": model}))
