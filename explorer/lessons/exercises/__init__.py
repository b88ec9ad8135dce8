"""The exercises of the lessons: a module for each, lesson1 to lesson8, with three in its EXERCISES."""
