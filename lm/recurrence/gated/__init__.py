"""Gated cells: `gates_t = x_t W + y_{t-1} R + b; state_t = pointwise(gates_t, state_{t-1})`. The files, in reading order:

    reference      the recurrence and its gradient, as a paper writes them; all else here computes the same, faster
    cells          each cell's `pointwise`
    engine         one step, and all steps with a gradient of its own: what does not belong to single steps
    drivers        which driver runs the steps: the one place where the platform and the shapes decide
    one_step       one step forward and backward, for every driver
    xla_loop       a driver: XLA's loop, on any platform
    order          the two memory orders of that loop
    pallas_kernel  a driver: a layer as one kernel, on a GPU or a TPU
    on_chip        a loop over time as one Pallas kernel

Facts about XLA (as of JAX 0.10) that the code rests on and refers to by number. Where one is of speed, `python -m
benchmarks.recurrence` measures it, and `python -m benchmarks.orders` the first:

XLA-1   Small layers are batch-major on a CPU. XLA copies their recurrent kernel into another order at every step, but divides
        products of few rows among cores better than those of few columns. Kernels above `drivers.SMALL` lose more by the copy.
XLA-2   A single step is batch-major on any platform. Sampling runs it in a loop, which would do every transpose anew.
XLA-3   The input product is inside the loop on a CPU: a product of a step's width runs at full speed there, and its result is
        still in the cache when it is added. Batches below `MemoryOrder.narrow` would read the whole kernel at every step for
        little work, so they have one product before the loop, as accelerators do.
XLA-4   Gates are read from memory one by one. A loop over two outputs of one read is not vectorised on a CPU.
XLA-5   Sums over the batch inside a loop are slow on a CPU. Batch-major, each example has its own copy of the cell's
        parameters, and the sum over the batch of their gradients is left for after the loop.
XLA-6   On a CPU, a transpose of a product becomes a product in another order, which does not exist in bfloat16. An
        optimization barrier keeps the two apart.
XLA-7   The gradient by the gates is written where the gates were: that memory is neither taken anew nor filled first. A step's
        gradient is written at the beginning of the next one, so that a step never reads what it also writes. XLA cannot tell
        the rows of an array apart, and would copy the whole array.
XLA-8   The gradient by all gates is one array, for the recurrent product and for what is kept. As two, it is computed twice.
XLA-9   Memory that is written before it is read is filled with a value of the program's inputs, not with zeros. Zeros are one
        constant for all layers, filled when the program begins and copied for each layer.
XLA-10  A `where` that changes nothing keeps a product and its sum over units apart, of which XLA makes one slow loop on a CPU.
XLA-11  Initial states are separate arrays, though equal. A loop that writes where it read must not find two in one place.
"""
