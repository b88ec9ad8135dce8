"""One filled and one empty example of every picture of a trace, for the tests of all pictures and for their own."""

import numpy as np

from widgets.figures import (
    company_map,
    domain_loads,
    expert_load_map,
    load_difference,
    saturation_by_layer,
    side_by_side,
    sinks_by_layer,
    specialisation_by_layer,
    strongest_pairs,
    sureness_by_layer,
    utilisation_spread,
)

NAN = np.nan
LAYERS = ["model.layers.1.mlp", "model.layers.2.mlp"]
LOAD = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]
LIFT = [[NAN, 2.0, 0.5], [2.0, NAN, 1.0], [0.5, 1.0, NAN]]
ALONE = "Nothing to show yet: trace some text."
FULL = {
    "expert_load_map": (expert_load_map, (LOAD, LAYERS)),
    "utilisation_spread": (
        utilisation_spread,
        (LAYERS, [0, 0.6], [0.1, 0.7], [1, 0.9], [1.4, 1.3], [1.5, 1.5], [1, 0]),
    ),
    "strongest_pairs": (strongest_pairs, ([LAYERS[1], LAYERS[0]], [0, 1], [2, 2], [2.5, 1.5], [9, 12])),
    "company_map": (company_map, (LIFT, LAYERS[0])),
    "domain_loads": (domain_loads, ([[0.5, 0.2], [0.5, 0.2], [0.0, 0.6]], ["prose", "code"], LAYERS[0])),
    "specialisation_by_layer": (specialisation_by_layer, (LAYERS, [0.1, 0.3], [0.05, 0.05], [0.5, 0.4], [0.2, 0.2])),
    "saturation_by_layer": (saturation_by_layer, (LAYERS, [0.5, 0.7], [0.3, 0.3], [0.6, 0.8])),
    "load_difference": (load_difference, (LOAD, LOAD[::-1], LAYERS, [[1, 0, 2], [0, -1, 1]], "step 10", "step 20")),
    "sinks_by_layer": (sinks_by_layer, ([*LAYERS, *LAYERS], [0, 0, 1, 1], [0.5, 0.1, 0.2, 0.9], [0.0, 0.3, 0.1, 0.0])),
    "side_by_side": (
        side_by_side,
        (["a", "b"], [0.9, 0.5], [0.8, 0.7], [0.1, NAN], [0.2, 0.3], [0.1, 0.1], [0.4, 0.5]),
    ),
    "sureness_by_layer": (sureness_by_layer, (LAYERS, [0.9, 0.6], [0.1, 0.2])),
}
NONE = np.zeros((0, 3))
EMPTY = {
    "expert_load_map": (expert_load_map, (NONE,)),
    "utilisation_spread": (utilisation_spread, ([], [], [], [], [], [])),
    "strongest_pairs": (strongest_pairs, ([], [], [], [])),
    "company_map": (company_map, (np.zeros((0, 0)),)),
    "domain_loads": (domain_loads, (NONE, [])),
    "specialisation_by_layer": (specialisation_by_layer, ([], [], [], [], [])),
    "saturation_by_layer": (saturation_by_layer, ([], [], [])),
    "load_difference": (load_difference, (NONE, NONE)),
    "sinks_by_layer": (sinks_by_layer, ([], [], [], [])),
    "side_by_side": (side_by_side, ([],)),
    "sureness_by_layer": (sureness_by_layer, ([], [], [])),
}
UNTRACED = dict.fromkeys(EMPTY, ALONE)
