"""Tune a network to a laboratory by the statistics of its batch-norms, measured without labels.

Elsewhere the channels of a network have other means and variances than where it was trained, and
the last layers then read the look of the laboratory as a diagnosis. Batch-norms that use the
laboratory's own statistics take this out (AdaBN: Li et al. 2016, arXiv 1603.04779), and so does a
share of them (Schneider et al. 2020, arXiv 2006.16971).

Half of the training cells have parasites, and they are augmented: their channels vary more than
those of a laboratory's cells, most of which are healthy. So a tuned network is more sensitive, and
its log-odds move; a ruler reads them by the laboratory's own healthy cells (`ruler`). At home all
this gains nothing, and is not done: the share grows with the laboratory's distance.

Only layers behind the taps for distances are tuned, so that rubbish cannot become familiar.

Let the output of a batch-norm have mean m and variance v in training, and m' and v' at the
laboratory. With weight a on the latter, a value z becomes

    m + s (z - (1-a) m - a m'),  where s^2 = v / ((1-a) v + a v'):

a scale and a shift. A compiler folds them into the weights, so that a pass costs no more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tasks import bundles
from tasks.network.cutting import LOGITS, Shift
from tasks.network.processor import NORM, TAP, Graph, OpenVino, noise, openvino, passes
from tasks.network.ruler import LOWER, Ruler
from tasks.network.spec import NetworkSpec
from tasks.types import Arrays, Numbers, Pixels, Single, below

opset13 = openvino.opset13
SHARE = 0.5  # of a distant laboratory's statistics, if there are many cells
HALF = 5.0  # cells that bring half of this share
# The distance that brings half of a tuning: of training patients the furthest is at .14, and seven
# laboratories are at .15 to .28. The power makes the share small at home.
DISTANT, STEEP = 0.11, 4
LEAST_SHARE = 0.01  # a smaller one changes no diagnosis: nights of training patients have 0.000
AT_ONCE = 64  # cells that are measured in one pass, so that memory is bounded
SMALL = 1e-6  # added to variances, because a channel may be dead
MEAN, VARIANCE = "mean", "variance"


@dataclass(frozen=True)
class Norms(bundles.Bundle):
    """The ``mean`` and ``variance`` (d,) of what each batch-norm gives, by its name."""

    mean: Mapping[str, Single]
    variance: Mapping[str, Single]


@dataclass(frozen=True)
class Home(bundles.Bundle):
    """The look of the training laboratory to a network.

    ``trained`` are the batch-norms that can be tuned, as training left them; ``healthy`` is the
    first of them on healthy training cells; ``median`` is that of the log-odds of healthy cells of
    patients on which the network was not trained.
    """

    trained: Norms
    healthy: Norms
    median: float

    def distance(self, own: Norms) -> float:
        """Compute how far a laboratory is away: the mean square of (m' - m) / deviation.

        It is that of the channels of the first batch-norm, on cells that look healthy.
        """
        ((name, mean),) = self.healthy.mean.items()
        variance = self.healthy.variance[name]
        floor = 1e-3 * variance.mean() + SMALL  # a channel may be dead
        return float(np.mean((own.mean[name] - mean) ** 2 / (variance + floor)))


@dataclass(frozen=True)
class Tuning(bundles.Bundle):
    """The change of what each batch-norm gives, by its name: a ``scale`` and a ``shift`` (d,).

    ``share`` is that of the laboratory's statistics; ``expected`` are the tuned outputs of `noise`;
    the ``ruler`` changes logits.
    """

    scale: Mapping[str, Single]
    shift: Mapping[str, Single]
    share: float
    expected: Mapping[str, Single]
    ruler: Ruler = field(default_factory=Ruler)


def home_of(
    graph: Graph, spec: NetworkSpec, weights: Arrays, healthy: Pixels, log_odds: Numbers
) -> Home | None:
    """Describe the training laboratory by a network's ``weights``, named as PyTorch does.

    ``healthy`` are training cells (n, side, side, 3), n >= 1, and ``log_odds`` (k,) those of unseen
    patients' healthy cells, k >= 1. None if there is no batch-norm that can be tuned.
    """
    names = list(tunable(graph.network, spec))
    if not names:
        return None
    mean = {norm: weights[f"backbone.{norm}.bias"] for norm in names}
    variance = {norm: weights[f"backbone.{norm}.weight"] ** 2 for norm in names}
    measured, first = measuring(graph, spec)(healthy), names[0]
    nearest = Norms({first: measured.mean[first]}, {first: measured.variance[first]})
    return Home(Norms(mean, variance), nearest, float(np.median(log_odds)))


def measuring(
    graph: Graph, spec: NetworkSpec, known: Norms | None = None
) -> Callable[[Pixels], Norms]:
    """Compile what measures the batch-norms that can be tuned on cells (n, side, side, 3), n >= 1.

    With those ``known`` of training, each is measured behind others that are wholly tuned:
    otherwise a change of the first layers would be made once more by each later one.
    """
    network, results = graph.network.clone(), []
    axes = np.asarray([0, 2, 3])
    for norm, output in tunable(network, spec).items():
        takers = output.get_target_inputs()
        mean = opset13.reduce_mean(output, axes, keep_dims=True)
        apart = opset13.subtract(output, mean)
        variance = opset13.reduce_mean(opset13.multiply(apart, apart), axes, keep_dims=True)
        for name, node in ((MEAN, mean), (VARIANCE, variance)):
            results.append(opset13.result(node))
            results[-1].output(0).set_names({f"{name}/{norm}"})
        if known is not None:
            wanted = _by_channel(known.variance[norm] + SMALL)
            scale = opset13.sqrt(opset13.divide(wanted, opset13.add(variance, np.float32(SMALL))))
            _replace(takers, opset13.multiply(apart, scale), _by_channel(known.mean[norm]))
    network.add_results(results)
    run = passes(replace(spec, arithmetic="float32"), network, kept=True)

    def measure(pixels: Pixels) -> Norms:
        groups = -(-len(pixels) // AT_ONCE)
        parts = [run(pixels[first::groups]) for first in range(groups)]
        wanted = [name for name in parts[0] if name.startswith((f"{MEAN}/", f"{VARIANCE}/"))]
        rows = {name: np.stack([part[name].ravel() for part in parts]) for name in wanted}
        means, variances = below(MEAN, rows), below(VARIANCE, rows)
        return Norms(
            {norm: values.mean(axis=0) for norm, values in means.items()},
            {norm: each.mean(axis=0) + means[norm].var(axis=0) for norm, each in variances.items()},
        )

    return measure


def remoteness(distance: float) -> float:
    """Compute the part of a tuning that a laboratory gets, in [0, 1), from its `Home.distance`."""
    return distance**STEEP / (distance**STEEP + DISTANT**STEEP)


def share_of(distance: float, cells: int) -> float:
    """Compute the share of a laboratory's statistics by its distance and its healthy cells."""
    return SHARE * remoteness(distance) * cells / (cells + HALF)


def tune(
    graph: Graph, spec: NetworkSpec, trained: Norms, own: Norms, share: float
) -> tuple[Tuning, OpenVino]:
    """Tune a network to a laboratory, whose statistics get a ``share``.

    ``trained`` are the batch-norms as training left them, and ``own`` those of the laboratory, from
    `measuring` with ``trained``.
    """
    scale, shift = {}, {}
    for norm, mean in trained.mean.items():
        variance = trained.variance[norm] + SMALL
        mixed = (1 - share) * variance + share * (own.variance[norm] + SMALL)
        scale[norm] = np.sqrt(variance / mixed).astype(np.float32)
        middle = (1 - share) * mean + share * own.mean[norm]
        shift[norm] = (mean - scale[norm] * middle).astype(np.float32)
    tuning = Tuning(scale, shift, share, {})
    device = OpenVino(passes(spec, _changed(graph.network, spec, tuning)))
    return replace(tuning, expected=device.passes(noise(spec))), device


def ruled(tuning: Tuning, home: Home, own: Norms, log_odds: Numbers, place: int) -> Tuning:
    """Add the ruler to a tuning, by the tuned log-odds (n,) of the class at ``place``.

    They are those of the laboratory's cells that look healthy, n >= 1, like ``own``.
    """
    share, median = remoteness(home.distance(own)), float(np.median(log_odds))
    return replace(tuning, ruler=Ruler(share * (home.median - LOWER - median), place))


def tuned(graph: Graph, spec: NetworkSpec, tuning: Tuning) -> Graph:
    """Return the graph of a tuned network."""
    expected = below(TAP, tuning.expected), tuning.expected[LOGITS]
    return Graph(_changed(graph.network, spec, tuning), expected)


def tuned_weights(weights: Arrays, tuning: Tuning) -> Arrays:
    """Return a network's arrays by PyTorch's names with its batch-norms tuned."""
    made = dict(weights)
    for norm, scale in tuning.scale.items():
        gamma, beta = f"backbone.{norm}.weight", f"backbone.{norm}.bias"
        made[gamma], made[beta] = scale * made[gamma], scale * made[beta] + tuning.shift[norm]
    return made


def tuned_cutting(cutting: Shift, spec: NetworkSpec, tuning: Tuning) -> Shift:
    """Return the cutting shift behind tuned batch-norms, which take out their share of it."""
    exact = spec.distance_taps or spec.taps
    left = np.float32(1 - tuning.share)
    return {tap: shift if tap in exact else left * shift for tap, shift in cutting.items()}


def tunable(network: openvino.Model, spec: NetworkSpec) -> dict[str, openvino.Output]:
    """Find the outputs of the batch-norms on which no distance depends, by name."""
    taps = {f"{TAP}/{tap}" for tap in spec.distance_taps or spec.taps}
    needed = {each.node.friendly_name for each in network.outputs if each.any_name in taps}
    ordered = network.get_ordered_ops()
    for node in reversed(ordered):  # whatever takes a node's output comes first
        if node.friendly_name in needed:
            needed |= {each.get_node().friendly_name for each in node.input_values()}
    return {
        name.removeprefix(f"{NORM}/"): output
        for node in ordered
        if node.friendly_name not in needed
        for output in node.outputs()
        for name in output.get_names()
        if name.startswith(f"{NORM}/")
    }


def _changed(network: openvino.Model, spec: NetworkSpec, tuning: Tuning) -> openvino.Model:
    made = network.clone()
    for norm, output in tunable(made, spec).items():
        takers = output.get_target_inputs()
        scaled = opset13.multiply(output, _by_channel(tuning.scale[norm]))
        _replace(takers, scaled, _by_channel(tuning.shift[norm]))
    return made


def _replace(takers: Iterable[openvino.Input], scaled: openvino.Node, shift: openvino.Node) -> None:
    """Replace the value of some inputs by a scaled value, shifted."""
    value = opset13.add(scaled, shift).output(0)
    for taker in takers:
        taker.replace_source_output(value)


def _by_channel(values: Single) -> openvino.Node:
    return opset13.constant(values.astype(np.float32).reshape(1, -1, 1, 1))
