"""The cache of compiled programs, which later processes reuse."""

import os
import re
import sys
import warnings


def use() -> None:
    """Turns on the cache of compiled programs, in JAX_COMPILATION_CACHE_DIR or in ~/.cache/lm/compiled."""
    import jax

    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not directory:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directory = os.path.join(cache, "lm", "compiled")
        if directory.startswith("~"):
            print("HOME is not set, so programs are compiled again at each start", file=sys.stderr, flush=True)
        else:
            jax.config.update("jax_compilation_cache_dir", directory)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # dozens of small programs add up too
    _say_once_where_it_fails(directory)


def _say_once_where_it_fails(directory: str) -> None:
    """Replaces JAX's warnings about programs that it cannot cache by one line, for the first of them."""
    show, failed = warnings.showwarning, []

    def show_other(message, category, filename, lineno, file=None, line=None):
        text = str(message)
        if not re.match("Error (reading|writing) persistent compilation cache", text):
            return show(message, category, filename, lineno, file, line)
        failed.append(text)
        if len(failed) == 1:
            reason = text.partition("': ")[2].splitlines()[0][:160]
            reason = f"the compilation cache {directory} fails ({reason}), so programs are compiled again at each start"
            print(f"{reason}; set JAX_COMPILATION_CACHE_DIR to another folder", file=sys.stderr, flush=True)

    warnings.showwarning = show_other
