import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.training import schedules


@pytest.mark.parametrize(
    ("rule", "batch", "rate"),
    [
        ("sqrt", 32, 0.1),
        ("sqrt", 128, 0.2),
        ("sqrt", 8, 0.05),
        ("linear", 128, 0.4),
        ("none", 128, 0.1),
    ],
)
def test_rate_grows_with_the_batch_by_the_rule(rule, batch, rate):
    assert schedules.scale_for_batch(0.1, batch, rule) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "last"), [("cosine", [0.2, 0.0]), ("constant", [0.4, 0.4])]
)
def test_rate_rises_to_its_peak_and_follows_the_schedule(name, last):
    schedule = schedules.make_schedule(name, 0.4, 10, 110)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0.04, 0.22, 0.4, *last], atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_shrinks_weights_whose_gradient_is_zero(name):
    variable = keras.Variable([2.0])
    optimizer = schedules.make_optimizer(
        name, schedules.make_schedule("constant", 0.5, 0, 10), 0.1
    )
    optimizer.apply([np.zeros(1, np.float32)], [variable])
    np.testing.assert_allclose(variable, [2.0 * (1 - 0.5 * 0.1)], rtol=1e-6)


def test_sgd_takes_a_nesterov_step():
    variable = keras.Variable([1.0])
    optimizer = schedules.make_optimizer(
        "sgd", schedules.make_schedule("constant", 0.5, 0, 10), 0.0
    )
    for _ in range(2):
        optimizer.apply([np.array([0.2], np.float32)], [variable])
    # Velocity v' = 0.9 v - rate g, then w += 0.9 v' - rate g.
    expected, velocity = 1.0, 0.0
    for _ in range(2):
        velocity = 0.9 * velocity - 0.1
        expected += 0.9 * velocity - 0.1
    np.testing.assert_allclose(variable, [expected], rtol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_all_rates_at_once_equal_those_of_the_schedule(name, warmup_steps):
    schedule = schedules.make_schedule(name, 0.3, warmup_steps, 13)
    np.testing.assert_allclose(
        schedules.learning_rates(name, 0.3, warmup_steps, 13),
        [float(schedule(step)) for step in range(13)],
        rtol=1e-5,
        atol=1e-8,
    )


@pytest.mark.parametrize(
    ("num_images", "epochs"),
    [(50, 10), (640, 10), (1280, 5), (2000, 3), (1_000_000, 3)],
)
def test_small_sets_are_fine_tuned_for_more_epochs(num_images, epochs):
    assert schedules.choose_epochs(num_images) == epochs


@pytest.mark.parametrize(
    ("num_images", "views"),
    [(2, 8), (2000, 8), (2700, 6), (4723, 3), (7000, 2), (1_000_000, 2)],
)
def test_small_sets_are_seen_in_more_views(num_images, views):
    assert schedules.choose_views(num_images) == views


def test_rate_is_worked_out_once_a_step_and_anew_in_the_next():
    schedule = schedules.make_schedule("cosine", 0.5, 0, 3)
    optimizer = schedules.make_optimizer("adamw", schedule, 0.1)
    weights = [keras.Variable(tf.fill([n], 1.0)) for n in (2, 3, 5)]
    optimizer.build(weights)

    @tf.function(autograph=False)
    def train(num_steps):
        def take_step(i):
            # Without a gradient, AdamW decays the weights alone.
            optimizer.apply([tf.zeros(w.shape) for w in weights], weights)
            return i + 1

        tf.while_loop(lambda i: i < num_steps, take_step, [tf.constant(0)])

    train(tf.constant(2))
    rates = schedules.learning_rates("cosine", 0.5, 0, 3)[:2]
    for weight in weights:
        np.testing.assert_allclose(
            weight.numpy(), np.prod(1 - 0.1 * rates), rtol=1e-6
        )
    graph = train.get_concrete_function(tf.constant(2)).graph.as_graph_def()
    nodes = [n.op for f in graph.library.function for n in f.node_def]
    assert nodes.count("Cos") == 1
