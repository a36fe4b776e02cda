"""What the benchmarks compute from their measurements, apart from running anything."""
import re
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


def split_at_section(text, name):
    """A Markdown page around and between the two comments that carry `name`: before, body, after."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f'the page needs "{begin}" and "{end}", once each, in that order')
    before, rest = text.split(begin)
    body, after = rest.split(end)
    return before + begin, body.strip(), end + after


def replace_section(text, name, body):
    """Puts `body` between the two comments of a Markdown page that carry `name`."""
    before, _, after = split_at_section(text, name)
    return f"{before}\n{body.strip()}\n{after}"


def read_section(page, name):
    """What is in the page's section of that name."""
    with open(page, encoding="utf-8") as file:
        return split_at_section(file.read(), name)[1]


def replace_part(body, heading, part):
    """Puts `part` under a section's heading of the third level, at the end if there is none yet."""
    marker = "### "
    before, *parts = re.split(f"^{marker}", body, flags=re.MULTILINE)
    texts = dict(text.split("\n", 1) for text in parts)
    texts[heading] = f"\n{part.strip()}\n"
    return "\n".join([before.strip(), *(
        f"\n{marker}{name}\n\n{text.strip()}" for name, text in texts.items())]).strip()


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
