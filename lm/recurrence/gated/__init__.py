"""Gated cells: `gates_t = x_t W + y_{t-1} R + b`, then `state_t = pointwise(gates_t, state_{t-1})`.

The files, in the order in which to read them::

    reference      the recurrence and its gradient, as a paper writes them; the other files compute the same, faster
    cells          the `pointwise` of each cell
    engine         one step; all steps, with a gradient of its own
    drivers        the choice of the driver that runs the steps, by platform and shapes
    one_step       one step forward and backward, for every driver
    xla_loop       a driver: XLA's loop, on any platform
    order          the two memory orders of that loop
    pallas_kernel  a driver: a fused kernel per layer, on a GPU or a TPU
    on_chip        a loop over time as one Pallas kernel

The code relies on the following facts about XLA (as of JAX 0.10) and refers to them by number.
`python -m benchmarks.orders` measures the first, and `python -m benchmarks.recurrence` the others that concern speed.

- XLA-1: Small layers are batch-major on a CPU. XLA copies their recurrent kernel into another order at every step, but
  it divides products with few rows among the cores better than products with few columns. For kernels above
  `drivers.SMALL` the copy costs more than it gains.
- XLA-2: A single step is batch-major on any platform. Sampling runs it in a loop, which would repeat every transpose.
- XLA-3: The input product is inside the loop on a CPU. There, the product of one step runs at full speed, and its
  result is still in the cache when it is added. A batch below `MemoryOrder.narrow` would read the whole kernel at every
  step for little work, so it has one product before the loop, as on accelerators.
- XLA-4: Gates are read from memory one by one. A loop with two outputs from one read is not vectorized on a CPU.
- XLA-5: Sums over the batch inside a loop are slow on a CPU. In the batch-major order, each example has its own copy of
  the cell's parameters, and their gradients are summed over the batch after the loop.
- XLA-6: On a CPU, XLA turns the transpose of a product into a product in another order, which bfloat16 lacks. An
  optimization barrier separates the two.
- XLA-7: The gradient with respect to the gates overwrites the gates, so no new memory is allocated or filled. The
  gradient of a step is written at the start of the next step, so that no step reads the array that it writes. XLA does
  not distinguish the rows of an array and would copy all of it.
- XLA-8: The gradient with respect to all gates is one array, both for the recurrent product and for later. As two
  arrays it would be computed twice.
- XLA-9: Memory that is written before it is read is filled with a value of the program's inputs, not with zeros. Zeros
  would be one constant for all layers, filled at the start of the program and copied for each layer.
- XLA-10: A `where` without effect separates a product from its sum over hidden units, which XLA would fuse into one
  slow loop on a CPU.
- XLA-11: Initial states are separate arrays, even if they are equal. A loop that overwrites its inputs must not get the
  same memory twice.
"""
