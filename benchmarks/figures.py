"""What the benchmarks compute from their measurements, apart from running anything."""
import statistics
import textwrap

MIB = 1 << 20
# Of a parameter that is trained: weight, gradient and AdamW's two moments, 4 bytes each.
STATE_BYTES = 16


def beyond_state(peak_mib, parameters):
    """MiB of a training process beyond what any trainer of the model has to keep."""
    return peak_mib - STATE_BYTES * parameters / MIB


def better_setting(rounds, settings):
    """Of the peer's settings the one with the highest median of images a second."""
    return max(settings, key=lambda name: statistics.median(one_of(rounds, name, "images_per_s")))


def one_of(rounds, who, key):
    return [one[who][key] for one in rounds]


def ratios(rounds, ours, theirs, key):
    """Pair by pair: machines drift, but less within a pair."""
    return [one[ours][key] / one[theirs][key] for one in rounds]


def spread(values, digits):
    """The median, and the smallest and the largest value where there are several."""
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def replace_section(text, name, body):
    """Puts `body` between the two comments of a Markdown page that carry `name`."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f'the page needs "{begin}" and "{end}", once each, in that order')
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def write_section(page, name, body, *others):
    """Puts `body` into the page's section of that name, and prints it; `others` were written too."""
    with open(page, encoding="utf-8") as file:
        new = replace_section(file.read(), name, body)
    with open(page, "w", encoding="utf-8") as file:
        file.write(new)
    print(f"\n{body}\n\nwritten to {' and '.join([page, *others])}")


def paragraph(text):
    """Broken into lines as docs/ has them."""
    return textwrap.fill(text.strip(), width=105, break_long_words=False, break_on_hyphens=False)


def has_bf16(flags):
    """Whether a processor with these flags of lscpu multiplies bfloat16 numbers."""
    return "avx512_bf16" in flags.split()


def instruction_sets(flags):
    """Those among lscpu's flags that decide how fast a step can be."""
    known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"]
    return [name for name in known if name in flags.split()]
