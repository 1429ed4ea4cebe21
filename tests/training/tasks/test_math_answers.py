import sys
import threading

import pytest

from modeling_dvpo.training.tasks.math_answers import math_reward, stated_answer

GSM8K = "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18"
MATH = r"The slope is $\frac{2}{4}$, so the answer is $\boxed{\frac{1}{2}}$."


def reward(reference, completion, column="answer"):
    (value,) = math_reward(prompts=["A question"], completions=[completion], **{column: [reference]})
    return value


@pytest.mark.parametrize(
    "reference, completion",
    [
        (GSM8K, "9 * 2 = 18\n#### 18"),
        (GSM8K, "9 * 2 = 18\n#### 18\n"),
        (GSM8K, r"So it is $\boxed{18}$ a day."),
        (GSM8K, r"\[ \boxed{\$18.00} \]"),
        (GSM8K, r"\boxed{18 \text{ dollars}}"),
        (GSM8K, r"\boxed{18 dollars per day}"),  # as LaTeX, 18 times d, o, l, ...
        (GSM8K, r"\boxed{x = 18}"),
        (GSM8K, "The answer is 18."),
        (GSM8K, "The final answer is **18**."),
        (GSM8K, "First \\boxed{9} eggs, then \\boxed{18} dollars"),  # the last box
        (GSM8K, r"#### The result" + "\n" + r"\boxed{18}"),  # a heading is no answer
        (GSM8K, r"#### \boxed{18}"),
        (GSM8K, "<think>9? \\boxed{9}</think>\n#### 18"),
        ("10 * 100 = 1000\n#### 1,234", "#### 1234"),
        ("#### 1234", r"\boxed{1{,}234}"),
        ("#### -5", r"\boxed{-5}"),
        (18, r"\boxed{18}"),
        (0.5, r"\boxed{\frac{1}{2}}"),
        (MATH, r"\boxed{1/2}"),
        (r"so $x = \boxed 2$ at most.", r"\boxed{2}"),
        (r"\boxed{\frac{1}{2}}", r"$\boxed{\dfrac{1}{2}}$, since \boxed{\frac{2}{4"),  # the last one is cut
        (MATH, r"\boxed{0.5}"),
        (MATH, r"\boxed{\frac12}"),
        (MATH, "Half of them.\n#### 1/2"),
        # answers alone, as the column `answer` of MATH-500 has them; a search for numbers in 2k+2 finds 2
        ("2k+2", r"\boxed{2(k+1)}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}"),
        (r"(-\infty, 2]", r"$\boxed{(-\infty,2]}$"),
        (r"90^\circ", r"\boxed{90}"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}"),
        (r"\text{June 20}", r"\boxed{\text{June 20}}"),
        (r"1 \pm \sqrt{5}", r"\boxed{1-\sqrt{5}, 1+\sqrt{5}}"),
        (r"0.\overline{3}", r"\boxed{0.\overline{3}}"),  # not read by sympy, still equal as text
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}"),
    ],
)
def test_right_answers(reference, completion):
    assert reward(reference, completion) == 1.0


@pytest.mark.parametrize(
    "reference, completion",
    [
        (GSM8K, "#### 9"),
        (GSM8K, r"\boxed{180}"),
        (GSM8K, ""),
        (GSM8K, "I do not know."),
        (GSM8K, "She has 18 eggs."),  # a number, but nothing says it is the answer
        (GSM8K, "17, 18, 19"),
        (GSM8K, r"\boxed{17, 18, 19}"),
        (GSM8K, r"\boxed{18 or 19}"),
        (GSM8K, r"\boxed{18}, no: \boxed{19}"),
        (GSM8K, r"The answer is \boxed{18"),  # cut within the box
        (GSM8K, r"\boxed{}"),
        (GSM8K, "####"),
        (GSM8K, r"<think>It must be \boxed{18}"),  # cut before it answered
        (GSM8K, r"<think>\boxed{18}</think> I cannot say."),
        (GSM8K, "#### 18\nAnother question: what is 2 + 2?"),
        (MATH, r"\boxed{\frac{2}{1}}"),
        ("2k+2", r"\boxed{2}"),
        (r"(-\infty, 2]", r"\boxed{2}"),
        (r"(-\infty, 2]", r"\boxed{(-\infty, 2)}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        (r"\text{Evelyn}", r"\boxed{\text{Carla}}"),
    ],
)
def test_wrong_and_missing_answers(reference, completion):
    assert reward(reference, completion) == 0.0


def test_chats():
    prompt = [{"role": "user", "content": "A question"}]
    chat = [{"role": "assistant", "content": r"\boxed{17}"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "#### "}, {"type": "text", "text": "18"}]}]
    turns = [*chat, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": r"\boxed{18}"}]
    completions = [chat, parts, turns, [{"role": "assistant", "content": None}], []]
    rewards = math_reward(prompts=[prompt] * 5, completions=completions, answer=[GSM8K] * 5)
    assert rewards == [0.0, 1.0, 1.0, 0.0, 0.0]


def test_each_row_has_its_own_reference_and_its_own_column():
    completions = [r"\boxed{1}", r"\boxed{2}"]
    both = {"prompts": ["a", "b"], "completions": completions, "completion_ids": [[0], [1]], "level": [1, 2]}
    assert math_reward(**both, answer=["1", "1"]) == [1.0, 0.0]
    assert math_reward(**both, solution=[r"so \boxed{2}", r"so \boxed{2}"]) == [0.0, 1.0]
    # MATH-500 has both; `answer` is the reference, and may be missing for rows of another task
    assert math_reward(**both, answer=["1", None], solution=["unused", "unused"]) == [1.0, None]


@pytest.mark.parametrize("reference", ["", "It cannot be told from what is given.", "Line one\nline two", r"\boxed{"])
def test_a_reference_without_an_answer_is_refused(reference):
    with pytest.raises(
        ValueError, match=r"Row 1 of the batch, prompt 'Which one\?': the reference .* states no answer"
    ):
        math_reward(["A", "Which one?"], ["#### 1", "#### 1"], answer=["#### 1", reference])


def test_a_data_set_without_references_is_refused():
    with pytest.raises(ValueError, match="column `answer` or `solution`; the data set has final, level: rename"):
        math_reward(["A"], ["#### 1"], final=["1"], level=[3])


@pytest.mark.parametrize(
    "completion, stated",
    [
        ("#### 1,234", "1234"),
        (r"\boxed{18}", "18"),
        (r"\boxed{18.0}", "18"),
        (r"\boxed{x = 18}", "18"),
        ("#### $18 dollars", "18"),
        ("The answer is 18.", "18"),
        (r"\boxed{0.25}", "1/4"),
        (r"\boxed{\frac{2}{8}}", "1/4"),
        (r"\boxed{\{2, 1\}}", "{1, 2}"),
        (r"\boxed{0.\overline{3}}", r"0.\overline{3}"),
        ("It is 18.", None),
        (r"\boxed{18", None),
        ([{"role": "assistant", "content": "#### 18"}], "18"),
        ([], None),
    ],
)
def test_stated_answer(completion, stated):
    assert stated_answer(completion) == stated


def test_a_comparison_that_would_not_end_counts_as_wrong(monkeypatch):
    monkeypatch.setattr("modeling_dvpo.training.tasks.math_answers._seconds", lambda: 1)
    assert reward("18", r"\boxed{9^{9^{9^9}}}") == 0.0


def test_it_works_outside_the_main_thread():
    """The library's time limits are signals, which only the main thread can set: elsewhere it raised."""
    rewards = []
    thread = threading.Thread(target=lambda: rewards.append(reward("3/7", r"\boxed{\frac{3}{7}}")))
    thread.start()
    thread.join()
    assert rewards == [1.0]


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ImportError, match=r'pip install "modeling-dvpo\[math\]"'):
        stated_answer("The answer is 18.")
    with pytest.raises(ImportError, match=r"modeling-dvpo\[math\]"):
        reward("#### 5318008", "#### 5318008")
