"""The quick-start of Instructor, with another base URL, key and model; and bounds for the name, the age and what there is
beside them, which the built-in model, being tiny, might never end.

    pip install instructor
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/quickstarts/instructor_chat.py
"""

import instructor
from pydantic import BaseModel, ConfigDict, Field


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=150)


client = instructor.from_provider("openai/builtin")

person = client.create(
    response_model=Person,
    messages=[{"role": "user", "content": "Extract: John is 30 years old"}],
)
print(person)
