"""Data of the experiments: the exact fixture, teacher and student, sensing, real data sets.

Each function returns a task: inputs, targets and, as `task.objective`, the loss in whose clock its
stage times are quoted: squared, but for tokens and labels. Random data take a typed `key=`.
"""

from ._anchor import (
    Anchor as Anchor,
    anchor_function as anchor_function,
)
from ._cifar import cifar10 as cifar10
from ._cooccurrence import CoOccurrence as CoOccurrence, word_cooccurrence as word_cooccurrence
from ._digits import Digits as Digits, digits_rows as digits_rows
from ._images import Images as Images, digits as digits
from ._in_context import (
    InContextPrompts as InContextPrompts,
    in_context_regression as in_context_regression,
)
from ._last_token import AttentionLabels as AttentionLabels, attention_labels as attention_labels
from ._next_token import NextToken as NextToken, next_token as next_token
from ._prose import scipy_prose as scipy_prose
from ._recall import (
    Recall as Recall,
    associative_recall as associative_recall,
)
from ._regression import (
    Regression as Regression,
    diabetes as diabetes,
    zhao_fixture as zhao_fixture,
)
from ._sensing import Sensing as Sensing, matrix_sensing as matrix_sensing
from ._task import Task as Task
from ._teacher import (
    TEACHER_KQ as TEACHER_KQ,
    TEACHER_VO as TEACHER_VO,
    TeacherStudent as TeacherStudent,
    random_teacher as random_teacher,
    teacher_student as teacher_student,
)
from ._text import Text as Text, python_reference as python_reference
from ._wikitext import wikitext103 as wikitext103
