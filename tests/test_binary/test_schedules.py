import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmirnet.binary import ede


class TestSchedule:
    @given(st.floats(1e-4, 1), st.floats(1.01, 1e3), st.floats(0, 1), st.floats(0, 1))
    def test_monotone_within_its_bounds(self, t_min, t_max, p, q):
        p, q = sorted((p, q))
        (t0, k0), (t1, k1) = ede(p, t_min, t_max), ede(q, t_min, t_max)
        assert t_min * (1 - 1e-12) <= t0 <= t1 * (1 + 1e-12)
        assert t1 <= t_max * (1 + 1e-12)
        assert k0 >= k1 >= 1

    def test_values_of_the_paper(self):
        assert ede(0) == (0.1, 10)
        assert ede(0.25) == pytest.approx((10**-0.5, 10**0.5))
        assert ede(0.75) == pytest.approx((10**0.5, 1))
        assert ede(0, 1e-3)[1] == pytest.approx(1000)

    @given(st.floats(1e-9, 1e-3))
    def test_continuous_where_t_is_one(self, step):
        before, after = ede(0.5 - step), ede(0.5 + step)
        assert before[0] < 1 < after[0]
        # k = max(1/t, 1) meets 1 from above and stays
        assert before[1] - 1 < 10 * step
        assert after[1] == 1

    @pytest.mark.parametrize('bounds', [(0, 1), (-1, 1), (1, 1), (2, 1), (1, math.inf)])
    def test_refuses_bounds(self, bounds):
        with pytest.raises(ValueError, match='0 < t_min < t_max'):
            ede(0.5, *bounds)
