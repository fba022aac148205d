"""What a HyperparameterTuningJob searches: the sweep's space, as flags.

Each trial is a whole run of `trainer.task`, so what can be said by one of its
flags is searched: of the space of `tuning.search_space`, the ranges and choices
that stand for themselves, and the depth of fine-tuning.
"""

from tuning import objectives, search_space

# Of two classes and of more.
OBJECTIVES = sorted({*objectives.metric_names(2), *objectives.metric_names(3)})
# What only a sweep knows, which trains heads on cached features.
_NOT_FLAGS = ("num_hidden_layers", "augmentation_strength")
# Bayesian is Vertex AI's own default.
_ALGORITHMS = {"bayesian": "ALGORITHM_UNSPECIFIED", "random": "RANDOM_SEARCH"}
ORACLES = tuple(_ALGORITHMS)


def _make_parameter(name: str, values) -> dict:
    if isinstance(values, search_space.Range):
        bounds = {"min_value": values.low, "max_value": values.high}
        scale = f"UNIT_{values.sampling.upper()}_SCALE"
        kind = {"double_value_spec": bounds, "scale_type": scale}
    else:  # As text, also numbers: a trial is given it as it stands here.
        texts = [str(value) for value in values.values]
        kind = {"categorical_value_spec": {"values": texts}}
    return {"parameter_id": name, **kind}


def make_study_spec(
    objective: str,
    oracle: str,
    space_file: str,
    fixed: set[str],
    num_replicas: int,
) -> dict:
    """The fields of a StudySpec.

    Args:
        objective: one of `OBJECTIVES`.
        oracle: one of `ORACLES`.
        space_file: JSON that narrows the space, as `tuning.task` reads it, or
            "".
        fixed: flags that the user gave: they are not searched.
        num_replicas: that each trial runs on: batches are its multiples.

    Raises:
        ValueError: if nothing is left to search.
        OSError: if the file cannot be read.
    """
    space = search_space.read_space(space_file)
    for name, is_possible in (
        # 0 is not a value of this flag.
        (search_space.DEPTH, bool),
        ("global_batch_size", lambda size: size % num_replicas == 0),
    ):
        values = filter(is_possible, space[name].values)
        space[name] = search_space.Choice(tuple(values))
    parameters = [
        _make_parameter(name, values)
        for name, values in space.items()
        if name not in fixed
        and name not in _NOT_FLAGS
        and not getattr(values, "parent", "")
        and getattr(values, "values", (None,))
    ]
    if not parameters:
        raise ValueError(
            "There is nothing left to search: every hyperparameter is given as "
            "a flag after --."
        )
    goal = f"{objectives.direction(objective).upper()}IMIZE"
    return {
        "metrics": [{"metric_id": objective, "goal": goal}],
        "parameters": parameters,
        "algorithm": _ALGORITHMS[oracle],
    }
