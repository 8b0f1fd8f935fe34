"""Silences what libraries say at each start and what is not for the user to mend."""

import logging
import warnings


def quieten() -> None:
    """Silence what Lightning says at each start and what is not for the user to mend."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    for message in (
        ".*LightningCLI's args parameter.*",
        ".*does not have many workers.*",
        ".*LeafSpec.*is deprecated.*",
        ".*is smaller than the logging interval.*",
        ".*exists and is not empty.*",  # the run's folder, which the config is saved to first
        ".*the output would more aligned if.*",  # the published Cityscapes models are used at such sizes
        ".*dirpath has changed.*",  # a resumed run has a folder of its own
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # steps count here, not epochs
    ):
        warnings.filterwarnings("ignore", message)
