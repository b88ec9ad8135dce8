"""Weights a piece at a time: read while the one before is worked on, made float32, used for all tokens, and forgotten."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Lock
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from explorer.checkpoints.files import Source
from explorer.checkpoints.streaming import quantised
from explorer.checkpoints.streaming.rows import Rows
from explorer.checkpoints.weights import Weights

PIECE = 2 << 20  # bytes of a piece, as it is stored
HINTED = 64 << 20  # bytes that the disk is told of in advance
FEW = 48  # tokens, for which reading a weight takes longer than its products
CACHED = 1 << 18  # numbers that are made float32 and used while they are in the processor's cache, for few tokens
MANY = 1 << 19  # the same for many, where larger products are the faster ones


class Matrix(NamedTuple):
    """Where a linear map lies: y = x W^T with W (R, C), or `rows` of its rows from `first` on.

    expert: W is that one of a tensor (E, R, C). transposed: the tensor is stored (.., inputs, outputs), y = x W; all of it.
    bias: the name of a vector (R), or of one (E, R) for each expert.
    """

    name: str
    expert: int | None = None
    first: int = 0
    rows: int | None = None
    transposed: bool = False
    bias: str | None = None


class Piece(NamedTuple):
    """Some rows of a tensor, counted over all axes but the last; `start` and `end` are its bytes in the file."""

    name: str
    first: int
    rows: int
    file: str
    start: int
    end: int


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, source: Source) -> None:
        self._source, self._lock, self.bytes = source, Lock(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, file: str, start: int, end: int) -> bytearray | memoryview:
        with self._lock:
            self.bytes += end - start
        return self._source.read(file, start, end)


class Pieces(ExitStack):
    """Linear maps and small tensors of a checkpoint. Leaving the `with` statement ends the threads that read ahead.

    pulse: called before each piece is worked on; what it raises ends the work.
    """

    def __init__(self, weights: Weights, piece_bytes: int = PIECE, pulse: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._counted = Counted(weights.source)
        self.weights = Weights(cast(Source, self._counted), weights.tensors, weights.config, weights.memory)
        self._piece_bytes, self._pulse = piece_bytes, pulse
        workers, self._most = (
            (1, 2) if weights.source.at_once == 1 else (4, 4)
        )  # a server is asked for several together
        self._pool = ThreadPoolExecutor(workers)
        self.callback(self._pool.shutdown, wait=True, cancel_futures=True)
        self._plan, self._unsaid = deque[Piece](), deque[Piece]()  # to be read; to be hinted at
        self._flying = deque[tuple[Piece, Future[Tensor]]]()
        self._hinted = 0  # bytes that the disk was told of and nobody has asked for
        self._small = dict[str, Future[Tensor]]()
        self._buffer = torch.empty(0, dtype=torch.float32)

    @property
    def bytes_read(self) -> int:
        """Of the files, by now."""
        return int(self._counted.bytes)

    def place(self, matrix: Matrix) -> tuple[str, int, int]:
        """File and bytes of a matrix."""
        cut = list(self._cut(matrix))
        return cut[0].file, cut[0].start, cut[-1].end

    def size(self, matrix: Matrix) -> int:
        """Bytes that a matrix takes in the files."""
        _, start, end = self.place(matrix)
        return end - start

    def shape(self, matrix: Matrix) -> tuple[int, int]:
        """(outputs, inputs)."""
        rows, width = self._stored(matrix)
        if self._is_transposed(matrix):
            return width, rows
        return (rows if matrix.rows is None else matrix.rows), width

    # -- what comes next -------------------------------------------------------------------------------------------
    def coming(self, matrices: Iterable[Matrix]) -> None:
        """These will be asked for next, in this order, after those that were named before."""
        pieces = [piece for matrix in matrices for piece in self._cut(matrix)]
        self._plan.extend(pieces)
        self._unsaid.extend(pieces)
        self._launch()

    def soon(self, names: Iterable[str]) -> None:
        """These small tensors will be needed: they are read before the matrices that are named later."""
        for name in names:
            if name not in self._small:
                self._small[name] = self._pool.submit(self._number, name)

    def forget(self, names: Iterable[str]) -> None:
        """These small tensors have been used for the last time."""
        for name in names:
            self._small.pop(name, None)

    # -- what is asked for -----------------------------------------------------------------------------------------
    def vector(self, name: str) -> Tensor:
        """A small tensor of any shape in float32, kept until it is forgotten."""
        self.soon([name])
        return self._small[name].result()

    def linear(self, x: Rows, matrix: Matrix | str, bias: str | None = None) -> Rows:
        """x W^T + bias, in float32; each piece of W serves all rows of x before the next one is looked at."""
        matrix = Matrix(matrix, bias=bias) if isinstance(matrix, str) else matrix
        y, at, transposed = Rows(x.n, self.shape(matrix)[0]), 0, self._is_transposed(matrix)
        for W in self._float32(matrix, CACHED if x.n < FEW else MANY):
            rows = W.shape[0]
            here = slice(at, at + rows)
            for part in x.waves(y.width if transposed else rows):
                if transposed:
                    y[part].addmm_(x[part, here], W)
                else:
                    y[part, here] = _product(x[part], W)
                y.rest()
            at += rows
        if matrix.bias is not None:
            b = self._bias(matrix, self.vector(matrix.bias))
            for part in y.waves():
                y[part] += b
        return y

    @staticmethod
    def _bias(matrix: Matrix, b: Tensor) -> Tensor:
        b = b[matrix.expert] if b.ndim == 2 and matrix.expert is not None else b
        return b if matrix.rows is None else b[matrix.first : matrix.first + matrix.rows]

    # -- reading ---------------------------------------------------------------------------------------------------
    def _is_transposed(self, matrix: Matrix) -> bool:
        return matrix.transposed and matrix.name in self.weights

    def _stored(self, matrix: Matrix) -> tuple[int, int]:
        """(rows, width) of W as the files hold it."""
        shape = quantised.shape(self.weights, matrix.name)
        return shape[-2], shape[-1]

    def _cut(self, matrix: Matrix) -> Iterator[Piece]:
        """Pieces that take, in the file and as float32, no more than the limit and four times of it."""
        R, width = self._stored(matrix)
        plain = self.weights.tensors.get(matrix.name)
        stored = self.weights.tensors[matrix.name + "_blocks"] if plain is None else plain
        each = (stored.end - stored.start) // max(1, math.prod(quantised.shape(self.weights, matrix.name)[:-1]))
        begin = matrix.first + R * (matrix.expert or 0)
        end = begin + (R if matrix.rows is None else matrix.rows)
        step = max(1, self._piece_bytes // max(1, each, 2 * width))
        for at in range(begin, end, step):
            n = min(step, end - at)
            yield Piece(matrix.name, at, n, stored.file, stored.start + at * each, stored.start + (at + n) * each)

    def _float32(self, matrix: Matrix, numbers: int) -> Iterator[Tensor]:
        """Some rows of W after the other, about so many numbers at a time; each takes the place of those before."""
        for piece in self._cut(matrix):
            if self._pulse is not None:
                self._pulse()
            raw = self._get(piece)
            for part in raw.split(max(1, numbers // max(1, raw.shape[1]))):
                if part.dtype == torch.float32:
                    yield part
                    continue
                if self._buffer.numel() < part.numel():
                    self._buffer = torch.empty(part.numel(), dtype=torch.float32)
                yield self._buffer[: part.numel()].view(part.shape).copy_(part)

    def _get(self, piece: Piece) -> Tensor:
        if not self._flying or self._flying[0][0] != piece:
            return self._read(piece, ())
        made = self._flying.popleft()[1].result()
        self._launch()
        return made

    def _launch(self) -> None:
        """Let the next pieces be read, and the disk be told of what comes behind them."""
        while self._plan and len(self._flying) < self._most:
            piece, told = self._plan.popleft(), list[Piece]()
            if len(self._unsaid) > len(self._plan):
                self._unsaid.popleft()
            else:
                self._hinted -= piece.end - piece.start
            while self._unsaid and self._hinted < HINTED:
                told.append(self._unsaid.popleft())
                self._hinted += told[-1].end - told[-1].start
            self._flying.append((piece, self._pool.submit(self._read, piece, told)))

    def _read(self, piece: Piece, told: Iterable[Piece]) -> Tensor:
        """(rows, width) as it is stored; what is quantised as float32."""
        self._counted.soon((one.file, one.start, one.end) for one in told)
        if quantised.is_quantised(self.weights, piece.name):
            return quantised.dequantised(self.weights, piece.name, piece.first, piece.rows)
        return self.weights.read(piece.name, piece.first, piece.rows)

    def _number(self, name: str) -> Tensor:
        return self.weights.numbers(name).float()


def _product(x_ND: Tensor, W_RD: Tensor) -> Tensor:
    """x W^T. The same numbers either way; which is faster depends on the number of tokens."""
    return (W_RD @ x_ND.T).T if 8 < x_ND.shape[0] < FEW else F.linear(x_ND, W_RD)
