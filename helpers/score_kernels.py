"""Compiled inner loops over score curves: median filter, false positives and true positives at every threshold.

numba compiles a function on its first call and keeps the result on disk, so importing costs nothing and the second
process starts at once. All of them stay in this one file because numba's disk cache notices changes only in the file
of the function that is called. They release the GIL: callers run them in threads.
"""

from __future__ import annotations

import numpy as np

from helpers.compiling import compiled
from helpers.score_tables import LONGEST_NETWORK


@compiled(inline="always")
def _min(a, b):  # type: ignore[no-untyped-def]  # numba infers the types
    return a if a < b else b


@compiled(inline="always")
def _max(a, b):  # type: ignore[no-untyped-def]
    return b if a < b else a


@compiled(inline="always")
def _median3(a, b, c):  # type: ignore[no-untyped-def]
    return _max(_min(a, b), _min(_max(a, b), c))


@compiled()
def _reflect_pad(x, half, padded):  # type: ignore[no-untyped-def]
    """Copies x into the middle of `padded` [len(x) + 2 * half] and mirrors it at both ends (d c b a | a b c d)."""
    length = len(x)
    period = 2 * length
    padded[half : half + length] = x
    for i in range(half):
        j = (-1 - i) % period
        padded[half - 1 - i] = x[j] if j < length else x[period - 1 - j]
        j = (length + i) % period
        padded[half + length + i] = x[j] if j < length else x[period - 1 - j]


@compiled()
def _median9(p, out):  # type: ignore[no-untyped-def]
    """Median of 9 neighbours without branches, so that the compiler can use vector instructions.

    The median of nine is the median of (largest minimum, median of the medians, smallest maximum) of three disjoint
    triples (Paeth, "Median finding on a 3x3 grid", Graphics Gems, 1990).
    """
    for i in range(len(out)):
        a, b, c = p[i], p[i + 1], p[i + 2]
        d, e, f = p[i + 3], p[i + 4], p[i + 5]
        g, h, k = p[i + 6], p[i + 7], p[i + 8]
        low = _max(_max(_min(_min(a, b), c), _min(_min(d, e), f)), _min(_min(g, h), k))
        high = _min(_min(_max(_max(a, b), c), _max(_max(d, e), f)), _max(_max(g, h), k))
        mid = _median3(_median3(a, b, c), _median3(d, e, f), _median3(g, h, k))
        out[i] = _median3(low, mid, high)


@compiled()
def _network_median(p, window, steps, rows, out):  # type: ignore[no-untyped-def]
    """Median by a sorting network of whole curves: row j holds the neighbours at distance j - window // 2."""
    length = len(out)
    for j in range(window):
        rows[j] = p[j : j + length]
    for k in range(len(steps)):
        low, high = rows[steps[k, 0]], rows[steps[k, 1]]
        for i in range(length):
            a, b = low[i], high[i]
            low[i], high[i] = _min(a, b), _max(a, b)
    out[:] = rows[window // 2]


@compiled()
def _sliding_median(p, window, out):  # type: ignore[no-untyped-def]
    """Keeps the window sorted while it slides: one removal and one insertion per frame."""
    ordered = np.sort(p[:window])
    half = window // 2
    out[0] = ordered[half]
    for i in range(1, len(out)):
        new = p[i + window - 1]
        j = np.searchsorted(ordered, p[i - 1])
        while j + 1 < window and ordered[j + 1] < new:
            ordered[j] = ordered[j + 1]
            j += 1
        while j > 0 and ordered[j - 1] > new:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = new
        out[i] = ordered[half]


@compiled()
def _median_row(x, window, steps, padded, rows, out):  # type: ignore[no-untyped-def]
    """Median filter of one curve x [T] into out [T]; `padded` and `rows` are scratch for the longest window."""
    if window == 1:
        out[:] = x
        return
    half = window // 2
    p = padded[: len(x) + 2 * half]
    _reflect_pad(x, half, p)
    if window == 9:
        _median9(p, out)
    elif len(steps) > 0:
        _network_median(p, window, steps, rows, out)
    else:
        _sliding_median(p, window, out)


@compiled()
def median_rows(x, windows, out):  # type: ignore[no-untyped-def]
    """Median filter of the rows of x [N, T] into out [N, T]; row n belongs to class n % C."""
    longest = windows.lengths.max()
    padded = np.empty(x.shape[1] + longest - 1, x.dtype)
    rows = np.empty((min(longest, LONGEST_NETWORK), x.shape[1]), x.dtype)
    for n in range(x.shape[0]):
        c = n % len(windows.lengths)
        steps = windows.steps[windows.first[c] : windows.last[c]]
        _median_row(x[n], windows.lengths[c], steps, padded, rows, out[n])


@compiled(inline="always")
def _round6(x):  # type: ignore[no-untyped-def]
    """Rounds seconds to 6 decimals as NumPy does, so that sums of frames compare equal to what they mean."""
    return np.rint(x * 1e6) / 1e6


@compiled()
def _overlap(start, end, onsets, offsets, first, last):  # type: ignore[no-untyped-def]
    """Seconds of [start, end) inside the events first ... last - 1."""
    total = 0.0
    for e in range(first, last):
        total += max(min(end, offsets[e]) - max(start, onsets[e]), 0.0)
    return total


@compiled()
def _turning_points(y, floor, out_score, out_sign, n):  # type: ignore[no-untyped-def]
    """Appends +1 at each local maximum of y and -1 at each local minimum, as far as they reach `floor`.

    The sum of the signs at or above a threshold is the number of runs of frames above it (before the first and
    after the last frame the curve counts as minus infinity). Returns the new length of the output, which needs room for
    one row more.
    """
    direction = 1
    last = y[0]
    for t in range(1, len(y)):  # no branches that depend on the noise: every candidate is written, few are kept
        value = y[t]
        step = (1 if value > last else 0) - (1 if value < last else 0)
        out_score[n], out_sign[n] = last, direction
        n += 1 if step * direction < 0 and last >= floor else 0
        direction = step if step != 0 else direction
        last = value
    if direction == 1 and last >= floor:
        out_score[n], out_sign[n] = last, 1
        n += 1
    return n


@compiled()
def _level_index(levels, value):  # type: ignore[no-untyped-def]
    """Position of `value` in the descending array `levels`; len(levels) when it is below all of them."""
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        if levels[middle] > value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def _detection_tree(y, levels, top, bottom, start, end):  # type: ignore[no-untyped-def]
    """Lists every detection that some threshold produces.

    A detection is a run of frames start ... end - 1 that exists for the thresholds levels[top] down to, but without,
    levels[bottom], where it grows or merges (bottom = len(levels): not at any of these levels). Each curve has at most
    T of them, found in one pass with a stack of the runs that are still open. Returns their number.
    """
    n, lowest = len(y), len(levels)
    open_level, open_start = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    depth, found = 0, 0
    for t in range(n + 1):
        level = _level_index(levels, y[t]) if t < n else lowest
        first = t
        while depth > 0 and open_level[depth - 1] < level:
            depth -= 1
            first = open_start[depth]
            top[found], start[found], end[found] = open_level[depth], first, t
            bottom[found] = min(level, open_level[depth - 1]) if depth > 0 else level
            found += 1
        if level < lowest and (depth == 0 or open_level[depth - 1] > level):
            open_level[depth], open_start[depth] = level, first
            depth += 1
    return found


@compiled()
def _matched_curve(y, floor, stamps, onsets, offsets, first, last, dtc, gtc):  # type: ignore[no-untyped-def]
    """Compares the detections of one curve with the events first ... last - 1 of its class.

    Returns the distinct scores down to `floor` in descending order, at each the change of the false and of the true
    positives when the threshold falls to it, and the tree of detections with whether each passes the detection
    tolerance.
    """
    n = len(y)
    ascending = np.sort(y[y >= floor])
    levels = np.empty(n, y.dtype)
    n_levels = 0
    for i in range(len(ascending) - 1, -1, -1):
        if n_levels == 0 or ascending[i] < levels[n_levels - 1]:
            levels[n_levels] = ascending[i]
            n_levels += 1
    levels = levels[:n_levels]
    top, bottom = np.empty(n, np.int64), np.empty(n, np.int64)
    start, end = np.empty(n, np.int64), np.empty(n, np.int64)
    found = _detection_tree(y, levels, top, bottom, start, end)
    relevant = np.empty(found, np.bool_)
    d_fp, d_tp = np.zeros(n_levels + 1, np.int64), np.zeros(n_levels + 1, np.int64)
    for i in range(found):
        on, off = stamps[start[i]], stamps[end[i]]
        inside = _overlap(on, off, onsets, offsets, first, last)
        relevant[i] = _round6(inside) >= _round6(dtc * (off - on))
        if not relevant[i]:
            d_fp[top[i]] += 1
            d_fp[bottom[i]] -= 1
    for e in range(first, last):
        change = np.zeros(n_levels + 1)
        for i in range(found):
            if relevant[i]:
                inside = _overlap(stamps[start[i]], stamps[end[i]], onsets, offsets, e, e + 1)
                change[top[i]] += inside
                change[bottom[i]] -= inside
        needed = _round6(gtc * (offsets[e] - onsets[e]))
        covered, hit = 0.0, 0
        for k in range(n_levels):
            covered += change[k]
            now = 1 if _round6(covered) >= needed else 0
            d_tp[k] += now - hit
            hit = now
    return levels, d_fp, d_tp, (top[:found], bottom[:found], start[:found], end[:found]), relevant


@compiled()
def _cross_triggers(stamps, events, b, c, tree, relevant, levels, criteria, found, n):  # type: ignore[no-untyped-def]
    """Appends how often detections of class c lie on events of each other class; returns the new number of rows.

    Detections that pass the detection tolerance cause no cross triggers.
    """
    top, bottom, start, end = tree
    label = events.clip_label
    first, last = events.clip_first[b], events.clip_first[b + 1]
    needed = np.empty(len(top))
    for i in range(len(top)):
        needed[i] = _round6(criteria.cttc * (stamps[end[i]] - stamps[start[i]]))
    while first < last:
        stop = first
        while stop < last and label[stop] == label[first]:
            stop += 1
        if label[first] != c:
            change = np.zeros(len(levels) + 1, np.int64)
            for i in range(len(top)):
                inside = 0.0
                if not relevant[i]:
                    on, off = stamps[start[i]], stamps[end[i]]
                    inside = _overlap(on, off, events.clip_onsets, events.clip_offsets, first, stop)
                if inside + 1e-6 > needed[i] and _round6(inside) >= needed[i]:  # rounding takes longer than comparing
                    change[top[i]] += 1
                    change[bottom[i]] -= 1
            for k in range(len(levels)):
                if change[k] != 0:
                    found.trigger_score[c, n], found.trigger_change[c, n] = levels[k], change[k]
                    found.trigger_other[c, n], found.trigger_clip[c, n] = label[first], b
                    n += 1
        first = stop
    return n


@compiled()
def _has_bad_value(x):  # type: ignore[no-untyped-def]
    bad = 0
    for t in range(len(x)):
        bad += 0 if x[t] - x[t] == 0 else 1
    return bad > 0


@compiled(fastmath={"nnan", "nsz"})
def _highest(x, start, end):  # type: ignore[no-untyped-def]
    """Highest of x[start:end]; 0 when that is empty, as sed_scores_eval scores a segment without any frame."""
    high = x[start] if end > start else x.dtype.type(0)
    for t in range(start + 1, end):
        high = _max(high, x[t])
    return high


@compiled()
def _peak(x):  # type: ignore[no-untyped-def]
    """Highest value of a long row; four running maxima let the processor work on several at once."""
    a = b = c = d = x[0]
    stop = len(x) - len(x) % 4
    for t in range(0, stop, 4):
        a, b, c, d = _max(a, x[t]), _max(b, x[t + 1]), _max(c, x[t + 2]), _max(d, x[t + 3])
    for t in range(stop, len(x)):
        a = _max(a, x[t])
    return _max(_max(a, b), _max(c, d))


@compiled()
def _quiet_segments(y, frames, n_segments, floor, quiet, n):  # type: ignore[no-untyped-def]
    """Appends the scores of all segments of a clip without the class; returns the new number of rows."""
    for s in range(n_segments):
        quiet[n] = _highest(y, frames[s, 0], frames[s, 1])
        n += 1 if quiet[n] >= floor else 0
    return n


@compiled()
def _mixed_segments(batch, events, b, c, y, floor, found):  # type: ignore[no-untyped-def]
    """Appends the scores of the segments of a clip with events of class c to those with or without an event."""
    index = c * len(batch.n_frames) + b
    for s in range(batch.n_segments[b]):
        start, end = batch.segment_bounds[b, s], batch.segment_bounds[b, s + 1]
        score = _highest(y, batch.segment_frames[b, s, 0], batch.segment_frames[b, s, 1])
        active = False
        for e in range(events.first[index], events.first[index + 1]):
            active |= start < events.offsets[e] and end > events.onsets[e]
        if active:
            found.active[c, found.counts[c, 5]] = score
            found.counts[c, 5] += 1
        elif score >= floor:
            found.quiet[c, found.counts[c, 4]] = score
            found.counts[c, 4] += 1


@compiled()
def _matched_detections(batch, events, b, c, y, criteria, found):  # type: ignore[no-untyped-def]
    """Appends the changes of false positives, true positives and cross triggers along one curve y."""
    index = c * len(batch.n_frames) + b
    first, last = events.first[index], events.first[index + 1]
    stamps = batch.stamps[b]
    levels, d_fp, d_tp, tree, relevant = _matched_curve(
        y, criteria.floor[c], stamps, events.onsets, events.offsets, first, last, criteria.dtc, criteria.gtc
    )
    n = found.counts[c, 1]
    for k in range(len(levels)):
        if d_fp[k] != 0 or d_tp[k] != 0:
            found.step_score[c, n], found.step_fp[c, n], found.step_tp[c, n] = levels[k], d_fp[k], d_tp[k]
            found.step_clip[c, n] = b
            n += 1
    found.counts[c, 1] = n
    if criteria.cttc >= 0:
        n = found.counts[c, 2]
        found.counts[c, 2] = _cross_triggers(stamps, events, b, c, tree, relevant, levels, criteria, found, n)


@compiled()
def score_classes(batch, events, criteria, found, first_class, last_class):  # type: ignore[no-untyped-def]
    """Fills the rows first_class ... last_class - 1 of `found` from a batch of clips (see the types above).

    What runs for every curve gets single arrays: handing over the large tuples costs more than the work itself.
    """
    n_frames, windows = batch.scores.shape[2], batch.windows
    padded = np.empty(n_frames + windows.lengths.max() - 1, batch.scores.dtype)
    rows = np.empty((min(windows.lengths.max(), LONGEST_NETWORK), n_frames), batch.scores.dtype)
    filtered = np.empty(n_frames, batch.scores.dtype)
    for c in range(first_class, last_class):
        found.counts[c] = 0
        found.bad_clip[c] = -1
        floor, segment_floor = criteria.floor[c], criteria.segment_floor[c]
        steps = windows.steps[windows.first[c] : windows.last[c]]
        quiet, turn_score, turn_sign = found.quiet[c], found.turn_score[c], found.turn_sign[c]
        for b in range(len(batch.n_frames)):
            x = batch.scores[b, c]
            if _has_bad_value(x):
                found.bad_clip[c] = b
                break
            index = c * len(batch.n_frames) + b
            absent = events.first[index] == events.first[index + 1]
            if absent and not batch.gaps[b] and _peak(x) < min(floor, segment_floor):
                continue  # the filtered curve is nowhere higher: neither detections nor segments can matter
            _median_row(x, windows.lengths[c], steps, padded, rows, filtered)
            y = filtered[: batch.n_frames[b]]
            if not absent:
                _mixed_segments(batch, events, b, c, y, segment_floor, found)
                _matched_detections(batch, events, b, c, y, criteria, found)
                continue
            found.counts[c, 4] = _quiet_segments(
                y, batch.segment_frames[b], batch.n_segments[b], segment_floor, quiet, found.counts[c, 4]
            )
            peak = _peak(y)
            if peak < floor:
                continue
            n = found.counts[c, 3]
            found.peak_score[c, n], found.peak_clip[c, n] = peak, b
            found.counts[c, 3] += 1
            if criteria.cttc >= 0:
                _matched_detections(batch, events, b, c, y, criteria, found)
                continue
            n = found.counts[c, 0]
            found.counts[c, 0] = _turning_points(y, floor, turn_score, turn_sign, n)
            found.turn_clip[c, n : found.counts[c, 0]] = b
