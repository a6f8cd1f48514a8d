import torch
from hypothesis import given
from hypothesis import strategies as st

from saes.activation import bi_jump_relu, jump_relu, signed_gate

numbers = st.floats(-3, 3, allow_nan=False)
thresholds = st.floats(0, 2)


@given(st.lists(numbers, min_size=1, max_size=20), thresholds, thresholds)
def test_bi_jump_relu_is_its_published_formula(values, t_plus, t_minus):
    z = torch.tensor(values, dtype=torch.float64)[:, None]
    threshold = torch.tensor([[t_plus], [t_minus]], dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert torch.equal(bi_jump_relu(z, threshold, zero, zero), z * (z > t_plus) + z * (z < -t_minus))


def test_by_hand():
    z = torch.tensor([[2.0], [0.5], [-0.5], [-2.0], [1.0]])
    threshold, log_gain, bias = torch.tensor([[1.0]]), torch.tensor([[2.0]]).log(), torch.tensor([[-1.0]])
    assert bi_jump_relu(z, threshold, log_gain, bias)[:, 0].tolist() == [3.0, 0.0, 0.0, -3.0, 0.0]
    assert jump_relu(z, threshold[0], log_gain[0], bias[0])[:, 0].tolist() == [3.0, 0.0, 0.0, 0.0, 0.0]
    assert signed_gate(z, threshold, two_sided=True)[:, 0].tolist() == [1.0, 0.0, 0.0, -1.0, 0.0]
    assert signed_gate(z, threshold, two_sided=False)[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_magnitude_is_cut_off_at_zero():
    z, threshold = torch.tensor([[0.5]]), torch.tensor([[0.1]])
    assert bi_jump_relu(z, threshold, torch.zeros(1, 1), torch.tensor([[-2.0]])).item() == 0.0
