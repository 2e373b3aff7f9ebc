"""Graphs that look ahead, or carry what cannot be a state: they run over whole sequences alone."""

from tests.export.hidden_states import GRU, NEXT, ONE, STATES, Hidden, over_time

_BOTH = {"W": (2, 15, 4), "R": (2, 15, 5), "B": (2, 30)}

AHEAD = {
    "bidirectional": Hidden(
        """net (float[t,n,4] x) => (float[t,2,n,5] y)
        { y = GRU <hidden_size = 5, direction = "bidirectional"> (x, W, R, B) }""",
        (r"GRU 'y' runs over the sequence backwards \(bidirectional\)",),
        weights=_BOTH,
    ),
    "reverse": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = GRU <hidden_size = 5, direction = "reverse"> (x, W, R, B)  {ONE}  y = Squeeze (Y, one) }}""",
        (r"GRU 'Y' runs over the sequence backwards \(reverse\)",),
        weights=GRU,
    ),
    "one_step": Hidden(
        over_time("wide = Conv <pads = [1, 1]> (narrow, K)"), ("Conv 'wide' looks 1 step ahead",), axis=1
    ),
    "six_steps": Hidden(
        over_time("wide = Conv <pads = [6, 6], dilations = [6]> (narrow, K)"),
        ("Conv 'wide' looks 6 steps ahead",),
        axis=1,
    ),
    "one_step_before_a_layer": Hidden(
        f"""net (float[t,n,4] x, {STATES}) => (float[t,n,5] y, {NEXT})
        {{ narrow = Transpose <perm = [1, 2, 0]> (x)  wide = Conv <pads = [0, 2]> (narrow, K)
          back = Transpose <perm = [2, 0, 1]> (wide)
          Y, hn, cn = LSTM <hidden_size = 5> (back, W, R, B, , h0, c0)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Conv 'wide' looks 2 steps ahead",),
    ),
    "pooling": Hidden(
        over_time("wide = MaxPool <kernel_shape = [3], pads = [1, 1]> (narrow)"),
        ("MaxPool 'wide' looks 1 step ahead",),
        axis=1,
    ),
    "mean": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y) { m = ReduceMean <axes = [1]> (x)  y = Sub (x, m) }""",
        ("ReduceMean 'm' takes all steps of the sequence together",),
        axis=1,
    ),
    "attention": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { keys = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, keys)
          shares = Softmax <axis = 2> (scores)  y = MatMul (shares, x) }""",
        ("MatMul 'scores' takes all steps of the sequence together",),
        axis=1,
    ),
    "normalisation": Hidden(
        over_time("wide = InstanceNormalization (narrow, scale, bias)"),
        ("InstanceNormalization 'wide' needs the whole sequence",),
        axis=1,
        weights={"scale": (4,), "bias": (4,)},
    ),
    "backwards": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { from = Constant <value = int64[1] {-1}> ()  to = Constant <value = int64[1] {-100000}> ()
          axis = Constant <value = int64[1] {1}> ()  step = Constant <value = int64[1] {-1}> ()
          turned = Slice (x, from, to, axis, step)  y = Add (x, turned) }""",
        ("Slice 'turned' needs the whole sequence",),
        axis=1,
    ),
}

WHOLE = {
    "start_computed_from_the_input": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ zero = Constant <value = int64[1] {{0}}> ()  first = Gather <axis = 0> (x, zero)
          start = MatMul (first, M)  Y = GRU <hidden_size = 5> (x, W, R, B, , start)  {ONE}
          y = Squeeze (Y, one) }}""",
        ("GRU 'Y'",),
        weights=GRU | {"M": (4, 5)},
    ),
    "reflected": Hidden(
        over_time(
            """ahead = Constant <value = int64[6] {0, 0, 2, 0, 0, 0}> ()
            padded = Pad <mode = "edge"> (narrow, ahead)  wide = Conv (padded, K)"""
        ),
        ("Pad 'padded'",),
        axis=1,
    ),
    "sum": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { one = Constant <value = int64 {1}> ()  y = CumSum (x, one) }""",
        ("CumSum 'y'",),
        axis=1,
    ),
    "every_other_step": Hidden(
        over_time("wide = Conv <pads = [2, 0], strides = [2]> (narrow, K)"), ("Conv 'wide'",), axis=1
    ),
}
