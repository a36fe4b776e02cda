"""python3 -m unittest discover -s benchmarks -p '*_test.py'"""
import contextlib
import io
import os
import tempfile
import unittest

import figures


def rounds(*images):
    """Of (ours, first setting, second setting), images a second."""
    return [
        {name: {"images_per_s": value} for name, value in zip(("ours", "first", "second"), one)}
        for one in images
    ]


class FiguresTest(unittest.TestCase):
    def test_memory_beyond_state(self):
        # 2^20 parameters keep 16 MiB.
        self.assertEqual(figures.beyond_state(100, 1 << 20), 84)

    def test_the_better_setting_has_the_higher_median(self):
        # The second has the higher mean and maximum.
        three = rounds((1, 5, 4), (1, 5, 4), (1, 5, 40))
        self.assertEqual(figures.better_setting(three, ["first", "second"]), "first")
        self.assertEqual(figures.better_setting(three, ["second", "first"]), "first")

    def test_ratios_are_taken_within_pairs(self):
        self.assertEqual(
            figures.ratios(rounds((6, 3, 0), (4, 1, 0)), "ours", "first", "images_per_s"), [2, 4]
        )

    def test_spread(self):
        self.assertEqual(figures.spread([3, 1, 2.25], 2), "2.25 (1.00 to 3.00)")
        self.assertEqual(figures.spread([1.5], 1), "1.5")

    def test_a_section_is_replaced_and_the_rest_kept(self):
        page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
        new = figures.replace_section(page, "x", "new\n")
        self.assertEqual(new, "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n")
        self.assertEqual(figures.replace_section(new, "x", "new"), new)

    def test_a_section_is_written_and_printed(self):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
            page = os.path.join(folder, "page.md")
            with open(page, "w", encoding="utf-8") as file:
                file.write("a\n<!-- x: begin -->\n<!-- x: end -->\n")
            figures.write_section(page, "x", "new", "plot.svg")
            with open(page, encoding="utf-8") as file:
                self.assertEqual(file.read(), "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\n")
        self.assertEqual(said.getvalue(), f"\nnew\n\nwritten to {page} and plot.svg\n")

    def test_a_part_is_replaced_or_added_and_others_are_kept(self):
        one = figures.replace_part("", "A (1)", "a table\n")
        self.assertEqual(one, "### A (1)\n\na table")
        two = figures.replace_part(one, "B", "b")
        self.assertEqual(two, "### A (1)\n\na table\n\n### B\n\nb")
        self.assertEqual(figures.replace_part(two, "A (1)", "new\n\nlines"),
                         "### A (1)\n\nnew\n\nlines\n\n### B\n\nb")
        self.assertEqual(figures.replace_part(two, "B", "b"), two)

    def test_text_before_the_parts_stays(self):
        self.assertEqual(figures.replace_part("text\n\n### A\n\na\n", "A", "b"), "text\n\n### A\n\nb")

    def test_a_section_is_read(self):
        with tempfile.TemporaryDirectory() as folder:
            page = os.path.join(folder, "page.md")
            with open(page, "w", encoding="utf-8") as file:
                file.write("a\n<!-- x: begin -->\nbody\n<!-- x: end -->\nb\n")
            self.assertEqual(figures.read_section(page, "x"), "body")

    def test_a_page_without_the_section_is_refused(self):
        for page in ("", "<!-- x: begin -->", "<!-- x: end -->\n<!-- x: begin -->"):
            with self.assertRaises(ValueError):
                figures.replace_section(page, "x", "new")

    def test_instruction_sets(self):
        self.assertEqual(figures.instruction_sets("fpu avx2 avx512f avx"), ["avx2", "avx512f"])
        self.assertTrue(figures.has_bf16("avx512f avx512_bf16"))
        self.assertFalse(figures.has_bf16("avx512f avx512_bf16x"))


if __name__ == "__main__":
    unittest.main()
