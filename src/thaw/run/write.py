"""Write what a study found into its run folder, `metrics.json` last: a run is finished when that is there."""

from dataclasses import asdict
from pathlib import Path

from thaw.cache.files import write_json
from thaw.run.environment import write_environment
from thaw.run.gallery import Gallery
from thaw.run.looks import count_looks
from thaw.run.metrics import FILE, Metrics
from thaw.run.results import StudyResult
from thaw.run.tables import (
    write_corrections,
    write_examples,
    write_gallery,
    write_label_errors,
    write_predictions,
    write_results,
)


def write_run(folder: Path, result: StudyResult, metrics: Metrics, gallery: Gallery) -> None:
    """Write the Parquet files, those in CSV, `modules.json`, `environment.json` and `metrics.json`.

    Raises StorageError where the folder cannot be written.
    """
    write_predictions(folder, result)
    write_results(folder, metrics)
    write_examples(folder, result)
    write_gallery(folder, result, gallery)
    write_label_errors(folder, result, gallery)
    write_corrections(folder, result)
    modules = {
        arm: [asdict(row) for row in of_arm[0].record.network.modules] for arm, of_arm in result.trials().items()
    }
    write_json(folder / "modules.json", modules)
    write_environment(folder, result.compute, count_looks(result))
    write_json(folder / FILE, metrics.model_dump(mode="json"))
