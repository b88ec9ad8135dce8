"""What the bundle of a class says: a README for each folder, and the settings of the two graders."""

from collections.abc import Sequence

from explorer.lessons.exercise import of_lesson


def student(names: Sequence[str]) -> str:
    """README.md for the students."""
    rows = "\n".join(f"- [{name.removesuffix('.ipynb')}](lessons/{name})" for name in names)
    return STUDENT.format(lessons=rows)


def instructor(numbers: Sequence[int], screens: int) -> str:
    """README.md for whoever teaches."""
    asked = [one for one in of_lesson().values() if one.lesson in numbers]
    rows = "\n".join(f"| {one.id} | `{one.name}` | {one.title} |" for one in asked)
    shown = "`screens/`: what each lesson looks like at its seed, before and after its runs." if screens else NO_SCREENS
    return INSTRUCTOR.format(exercises=rows, screens=shown)


STUDENT = """# Lessons on gates and experts

{lessons}

Each takes 30 to 45 minutes: a question, a prediction, a run, an explanation, three exercises and a quiz.

## Open them

On your own machine, with gating-explorer installed:

```sh
jupyter lab lessons     # in this folder
```

Open a lesson and run its cells from the top (Shift+Enter). Give your name when the page asks for it. Predict before you press
*Run*: the button waits for that.

If your class has a server, your teacher gives you its address instead: its pages show the same lessons, and the exercises are
written in the notebooks here.

## Exercises

An exercise is a cell with the beginning of a function. Go on where its `...` stands, and run the cell: `explorer.check` in
its last line says at once what is not right yet. Whole files can be checked too, as your teacher does it:

```sh
gating-explorer class check lessons/2_top_k_routing.ipynb
```
"""

NO_SCREENS = "`screens/` is made in a clone of the repository by `python scripts/lesson_screens.py`."

INSTRUCTOR = """# For whoever teaches

Keep this folder from your students: it holds the solutions.

- `notes/`: goals, timing, expected screens, misconceptions and questions for a discussion, a page for each lesson.
- `solutions/` and `misconceptions.py`: a right answer for each exercise, and the wrong ones that are usual.
- {screens}
- `nbgrader/`, `otter/`: the lessons for these two graders. You need neither: `gating-explorer class check` does without.

| exercise | function | what it asks for |
|---|---|---|
{exercises}

Every exercise is worth one point. A grader runs the checks that the student has run as `explorer.check`, seeded, so that the
verdict is the same, and puts the same hint into the feedback. Runs, predictions and quizzes are left out when grading.

## Without a grader

```sh
gating-explorer class check handed-in/*.ipynb     # a line for each exercise; also plain .py files
gating-explorer class progress --csv class.csv    # what the server of the class has noted
```

## nbgrader

```sh
cd nbgrader
nbgrader generate_assignment lesson2      # release/lesson2/: what students get, without solutions
# put what they hand in under submitted/NAME/lesson2/lesson2.ipynb, or let nbgrader collect it
nbgrader autograde lesson2
nbgrader generate_feedback lesson2
nbgrader export                           # grades.csv
```

A cell that does not end within 4 seconds, or a function within 3, is ended and costs its own point only. A submission whose
code ends the kernel itself cannot be graded; nbgrader says whose it is and goes on with the others.

## otter

```sh
cd otter/lesson2
otter assign lesson2.ipynb dist           # dist/student/: what students get; dist/autograder/: the autograder's zip
otter run -a dist/autograder/*.zip -o . handed-in/ada.ipynb
python ../grade_all.py dist/autograder/*.zip handed-in/*.ipynb > grades.csv
```

`otter run` needs no container; `grade_all.py` does the same for a whole class in one process, which is faster. otter by
itself ends no endless cell: the plugin that the assignments name does.
"""

NBGRADER = '''"""nbgrader's settings for the lessons; what is here may be changed, but for the lines on execution."""

import os
import sys

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "gating-explorer"
c.ClearSolutions.code_stub = {"python": ""}  # students begin with the code that stands before each solution

os.environ["GATING_EXPLORER_HEADLESS"] = "1"
if "autograde" in sys.argv:  # one process imports torch, and the kernels of all submissions are forked from it
    from explorer.lessons.graders.kernels import fork_them

    fork_them()

# a cell that never ends is ended, even one that resists
c.Execute.extra_arguments = ["--IPKernelApp.exec_lines=from explorer.lessons.graders import watch; watch()"]
c.Execute.timeout = 300  # for what even that cannot end
'''

OTTER = '''"""Grade a class with otter, without containers: python grade_all.py AUTOGRADER.zip NOTEBOOK... > grades.csv"""

import csv
import sys

# jsonschema takes a module that needs seconds to be imported where it finds it, to check addresses that no notebook has
sys.modules.setdefault("rfc3987_syntax", None)

from explorer.lessons.graders import kernels  # noqa: E402

if __name__ == "__main__":
    kernels.fork_them("otter.execute")  # they warm up while otter starts

from otter.api import grade_submission  # noqa: E402


def main(autograder, *paths):
    table = csv.writer(sys.stdout)
    table.writerow(["file", "points", "of", "feedback"])
    for path in paths:
        try:
            graded = grade_submission(path, autograder, quiet=True)
        except Exception as error:
            table.writerow([path, 0, "", f"not graded: {error}"])
            continue
        cases = [case for one in graded.results.values() for case in one.test_case_results if not case.passed]
        hints = [case.message.strip().splitlines()[-1].removeprefix("NotYet: ") for case in cases]
        table.writerow([path, graded.total, graded.possible, " | ".join(hints)])
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
'''
