"""The reasoning_gym reward agrees with the package, after the row has been through JSON."""

import json

import pytest

reasoning_gym = pytest.importorskip("reasoning_gym")
gym = pytest.importorskip("gradcurate.rewards.gym")


def entry_of(name, seed=7):
    return reasoning_gym.create_dataset(name, size=1, seed=seed)[0]


def row_of(entry):
    return json.loads(json.dumps({"question": entry["question"], "metadata": entry["metadata"]}))


@pytest.mark.parametrize(
    "name", ["chain_sum", "leg_counting", "prime_factorization", "word_sorting", "rearc"]
)
@pytest.mark.parametrize(
    "form", ["{}", "Hm. <answer>{}</answer> Done.", "The answer is {}.", "Well.\n\n**Answer:** {}"]
)
def test_the_reference_earns_one_however_it_is_stated(name, form):
    entry = entry_of(name)
    assert gym.score("any", form.format(entry["answer"]), entry["answer"], row_of(entry)) == 1.0
    assert gym.score("any", "I do not know.", entry["answer"], row_of(entry)) < 0.2


def test_only_the_tagged_answer_counts_where_there_is_one():
    entry = entry_of("chain_sum")
    completion = f"The answer is {entry['answer']} <answer>nothing</answer>"
    assert gym.score("any", completion, entry["answer"], row_of(entry)) == 0.0


def test_metadata_is_found_as_text_and_in_the_nested_column():
    entry = entry_of("chain_sum")
    row = row_of(entry)
    assert gym.find_metadata(row) == row["metadata"]
    assert gym.find_metadata({"metadata": json.dumps(row["metadata"])}) == row["metadata"]
    assert gym.find_metadata({"extra_info": row}) == row["metadata"]
    assert gym.find_metadata({"extra_info": None}) == {}


def test_the_data_source_names_the_generator_where_metadata_does_not():
    assert gym.score("reasoning_gym/chain_sum", "12", "12", {}) == 1.0
    with pytest.raises(ValueError, match=r"^Dataset 'nonsense' not registered$"):
        gym.score("nonsense", "12", "12", {})
