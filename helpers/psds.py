"""PSDS, segment-based AUROC and F1 of sound event detection, exact over all thresholds, in one pass over the clips.

`PSDSAccumulator` equals `sed_scores_eval` (Ebbers, Serizel, Haeb-Umbach, "Threshold-independent evaluation of sound
event detection scores", ICASSP 2022) to 1e-9, but keeps per class only the scores at which a count changes:

- In a clip without the class every detection is a false positive, and their number changes only at the local extrema
  of the curve.
- A curve of T frames has at most T different detections over all thresholds, and one pass with a stack finds them.
- From some score of each class downwards the false positives provably exceed the highest rate of interest; what lies
  below is dropped on the way.

As a command: `python -m helpers.psds --help`.
"""

from __future__ import annotations

from helpers.psds_accumulator import PSDSAccumulator
from helpers.psds_bootstrap import Interval, bootstrap, paired_bootstrap
from helpers.psds_curves import F1, PSDS1, PSDS2, ROC, PSDSSettings
from helpers.psds_figures import PSDSResult, macro_f1, micro_f1

__all__ = [
    "F1",
    "PSDS1",
    "PSDS2",
    "ROC",
    "Interval",
    "PSDSAccumulator",
    "PSDSResult",
    "PSDSSettings",
    "bootstrap",
    "macro_f1",
    "micro_f1",
    "paired_bootstrap",
]

if __name__ == "__main__":
    from helpers.psds_command import main

    main()
