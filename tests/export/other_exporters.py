"""Graphs as tf2onnx, keras and onnxsim write them: Transpose, Squeeze and Reshape with constants around layers."""

from tests.export.hidden_states import Hidden

_LSTM = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40)}
_GRU = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)}
_BOTH = {"W": (2, 20, 4), "R": (2, 20, 5), "B": (2, 40)}
_DENSE = {"kernel": (5, 3), "bias": (3,)}
_NUMBERS = """zero = Constant <value = int64[1] {0}> ()  one = Constant <value = int64[1] {1}> ()
    two = Constant <value = int64[1] {2}> ()"""
_ZEROS = f"""{_NUMBERS}  sizes = Shape (x)  rows = Slice (sizes, zero, one, zero)
    width = Constant <value = int64[1] {{5}}> ()  dims = Concat <axis = 0> (one, rows, width)
    fill = Constant <value = float[1] {{0.0}}> ()  start = Expand (fill, dims)"""

KERAS = {
    "keras_lstm": Hidden(
        f"""net (float[unk__5,unk__6,4] x) => (float[unk__7,unk__8,5] y)
        {{ {_ZEROS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5> (major, W, R, B, , start, start)
          squeezed = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (squeezed) }}""",
        ("Y.h", "Y.c"),
        1,
        weights=_LSTM,
    ),
    "keras_gru_last_step_and_dense": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,3] y)
        {{ {_ZEROS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y, Y_h = GRU <hidden_size = 5, linear_before_reset = 1> (major, W, R, B, , start)
          last = Squeeze (Y_h, zero)  product = MatMul (last, kernel)  y = Add (product, bias) }}""",
        ("Y.h",),
        1,
        weights=_GRU | _DENSE,
    ),
    "keras_gru_first_version": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_ZEROS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = GRU <hidden_size = 5, linear_before_reset = 0, activations = ["HardSigmoid", "Tanh"]>
            (major, W, R, B, , start)
          squeezed = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (squeezed) }}""",
        ("Y.h",),
        1,
        weights=_GRU,
    ),
    "keras_simple_rnn": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_ZEROS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = RNN <hidden_size = 5, activations = ["Relu"]> (major, W, R, B, , start)
          squeezed = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (squeezed) }}""",
        ("Y.h",),
        1,
        weights={"W": (1, 5, 4), "R": (1, 5, 5), "B": (1, 10)},
    ),
    "time_distributed_dense": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,3] y)
        {{ {_NUMBERS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5> (major, W, R, B)  squeezed = Squeeze (Y, one)
          back = Transpose <perm = [1, 0, 2]> (squeezed)  flat = Constant <value = int64[2] {{-1, 5}}> ()
          rows = Reshape (back, flat)  product = MatMul (rows, kernel)  sum = Add (product, bias)
          sizes = Shape <start = 0, end = 2> (back)  three = Constant <value = int64[1] {{3}}> ()
          dims = Concat <axis = 0> (sizes, three)  y = Reshape (sum, dims) }}""",
        ("Y.h", "Y.c"),
        1,
        weights=_LSTM | _DENSE,
    ),
    "conv1d_as_conv2d": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_NUMBERS}  narrow = Transpose <perm = [0, 2, 1]> (x)  image = Unsqueeze (narrow, two)
          wide = Conv <kernel_shape = [1, 3], pads = [0, 2, 0, 0]> (image, K)
          line = Squeeze (wide, two)  y = Transpose <perm = [0, 2, 1]> (line) }}""",
        ("wide.context",),
        1,
        weights={"K": (5, 4, 1, 3)},
    ),
    "causal_padding_before_conv2d": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_NUMBERS}  ahead = Constant <value = int64[6] {{0, 4, 0, 0, 0, 0}}> ()  padded = Pad (x, ahead)
          narrow = Transpose <perm = [0, 2, 1]> (padded)  image = Unsqueeze (narrow, two)
          wide = Conv <kernel_shape = [1, 3], dilations = [1, 2]> (image, K)
          line = Squeeze (wide, two)  y = Transpose <perm = [0, 2, 1]> (line) }}""",
        ("padded.context",),
        1,
        weights={"K": (5, 4, 1, 3)},
    ),
    "two_keras_layers": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_ZEROS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5> (major, W, R, B, , start, start)  s = Squeeze (Y, one)
          back = Transpose <perm = [1, 0, 2]> (s)  relu = Relu (back)  again = Transpose <perm = [1, 0, 2]> (relu)
          Z = GRU <hidden_size = 5> (again, W2, R2, B2, , start)  t = Squeeze (Z, one)
          y = Transpose <perm = [1, 0, 2]> (t) }}""",
        ("Y.h", "Y.c", "Z.h"),
        1,
        weights=_LSTM | {"W2": (1, 15, 5), "R2": (1, 15, 5), "B2": (1, 30)},
    ),
}

SIMPLIFIED = {
    "start_folded_to_one_row": Hidden(
        f"""net (float[1,time,4] x) => (float[1,time,5] y)
        {{ {_NUMBERS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5> (major, W, R, B, , start, start)
          shape = Constant <value = int64[3] {{1, -1, 5}}> ()  y = Reshape (Y, shape) }}""",
        ("Y.h", "Y.c"),
        1,
        weights=_LSTM | {"start": (1, 1, 5)},
    ),
    "normalisation_of_features": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_NUMBERS}  mean = ReduceMean <axes = [-1]> (x)  centred = Sub (x, mean)
          square = Mul (centred, centred)  variance = ReduceMean <axes = [-1]> (square)
          small = Constant <value = float {{0.001}}> ()  safe = Add (variance, small)  root = Sqrt (safe)
          normal = Div (centred, root)  major = Transpose <perm = [1, 0, 2]> (normal)
          Y = GRU <hidden_size = 5> (major, W, R, B)  shape = Constant <value = int64[3] {{0, 0, -1}}> ()
          turned = Transpose <perm = [2, 0, 1, 3]> (Y)  y = Reshape (turned, shape) }}""",
        ("Y.h",),
        1,
        weights=_GRU,
    ),
    "flattened_for_a_product": Hidden(
        """net (float[1,time,4] x) => (float[1,time,3] y)
        { major = Transpose <perm = [1, 0, 2]> (x)  Y = GRU <hidden_size = 5> (major, W, R, B)
          flat = Constant <value = int64[2] {-1, 5}> ()  rows = Reshape (Y, flat)  product = MatMul (rows, kernel)
          shape = Constant <value = int64[3] {1, -1, 3}> ()  y = Reshape (product, shape) }""",
        ("Y.h",),
        1,
        weights=_GRU | {"kernel": (5, 3)},
    ),
    "peepholes": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ {_NUMBERS}  Y = LSTM <hidden_size = 5> (x, W, R, B, , , , P)  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
        weights=_LSTM | {"P": (1, 15)},
    ),
}

KERAS_AHEAD = {
    "keras_bidirectional": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,10] y)
        {{ {_NUMBERS}  major = Transpose <perm = [1, 0, 2]> (x)
          Y = LSTM <hidden_size = 5, direction = "bidirectional"> (major, W, R, B)
          turned = Transpose <perm = [2, 0, 1, 3]> (Y)  shape = Constant <value = int64[3] {{0, 0, 10}}> ()
          y = Reshape (turned, shape) }}""",
        (r"LSTM 'Y' runs over the sequence backwards \(bidirectional\)",),
        1,
        weights=_BOTH,
    ),
    "keras_go_backwards": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_NUMBERS}  from = Constant <value = int64[1] {{-1}}> ()  to = Constant <value = int64[1] {{-100000}}> ()
          turned = Slice (x, from, to, one, from)  major = Transpose <perm = [1, 0, 2]> (turned)
          Y = GRU <hidden_size = 5> (major, W, R, B)  s = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (s) }}""",
        ("Slice 'turned' needs the whole sequence",),
        1,
        weights=_GRU,
    ),
    "same_padding": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,time,5] y)
        {{ {_NUMBERS}  narrow = Transpose <perm = [0, 2, 1]> (x)  image = Unsqueeze (narrow, two)
          wide = Conv <kernel_shape = [1, 3], auto_pad = "SAME_UPPER"> (image, K)
          line = Squeeze (wide, two)  y = Transpose <perm = [0, 2, 1]> (line) }}""",
        ("Conv 'wide' looks 1 step ahead",),
        1,
        weights={"K": (5, 4, 1, 3)},
    ),
}

KERAS_WHOLE = {
    "global_average_pooling": Hidden(
        f"""net (float[batch,time,4] x) => (float[batch,3] y)
        {{ {_NUMBERS}  major = Transpose <perm = [1, 0, 2]> (x)  Y = GRU <hidden_size = 5> (major, W, R, B)
          s = Squeeze (Y, one)  mean = ReduceMean <axes = [0], keepdims = 0> (s)  product = MatMul (mean, kernel)
          y = Add (product, bias) }}""",
        ("GRU 'Y'",),
        1,
        weights=_GRU | _DENSE,
    ),
}
