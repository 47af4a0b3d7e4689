"""Data of the experiments: the exact fixture, teacher and student, sensing, two real data sets.

Each function returns a task: inputs, targets and, as `task.objective`, the loss in whose clock its
stage times are quoted: squared, but for tokens and labels. Random data take a typed `key=`.
"""

from .anchor import (
    Anchor as Anchor,
    LastTokenLoss as LastTokenLoss,
    anchor_function as anchor_function,
)
from .digits import Digits as Digits, digits_rows as digits_rows
from .last_token import (
    AttentionLabels as AttentionLabels,
    attention_labels as attention_labels,
)
from .recall import (
    Recall as Recall,
    TokenLoss as TokenLoss,
    associative_recall as associative_recall,
)
from .regression import (
    Regression as Regression,
    diabetes as diabetes,
    zhao_fixture as zhao_fixture,
)
from .sensing import Sensing as Sensing, matrix_sensing as matrix_sensing
from .task import Task as Task
from .teacher import (
    TEACHER_KQ as TEACHER_KQ,
    TEACHER_VO as TEACHER_VO,
    TeacherStudent as TeacherStudent,
    random_teacher as random_teacher,
    teacher_student as teacher_student,
)
from .text import Text as Text, python_reference as python_reference
