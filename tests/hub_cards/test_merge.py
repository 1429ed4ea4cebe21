"""A card over the one that is there: ours is replaced, the user's survives, and doing it twice changes nothing."""

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st

from modeling_dvpo.hub_cards.errors import CardError
from modeling_dvpo.hub_cards.merge import merge

DATA = {"library_name": "transformers", "tags": ["ours", "critic"], "base_model": "a/b"}
SECTIONS = {"about": "About.", "results": "## Results\n\n1", "citation": "## Citation"}


def first(data=DATA, sections=SECTIONS):
    return merge(None, data, sections, "title")


def again(card, data=DATA, sections=SECTIONS, **options):
    return merge(card, data, sections, "other title", **options)


def metadata(card):
    return ModelCard(card).data.to_dict()


def edited(card, **changes):
    """The card with metadata changed by hand; None takes a key out."""
    _, head, body = card.split("---\n", 2)
    data = {**yaml.safe_load(head), **changes}
    kept = {key: value for key, value in data.items() if value is not None}
    return f"---\n{yaml.safe_dump(kept)}---\n{body}"


class TestText:
    def test_a_new_card(self):
        body = ModelCard(first()).text
        assert body.startswith(
            "\n# title\n\n<!-- dvpo:about -->\nAbout.\n<!-- /dvpo:about -->\n\n<!-- dvpo:results -->"
        )
        assert body.count("\n\n\n") == 0

    def test_our_sections_are_replaced_and_the_rest_stays(self):
        card = first().replace("# title", "# My title\n\nHello.")
        card = card.replace("<!-- dvpo:results -->", "Between,\n  with  spaces \n\n<!-- dvpo:results -->")
        card = card.replace("<!-- dvpo:metadata", "The end.\n\n<!-- dvpo:metadata")
        new = again(card, sections={**SECTIONS, "results": "## Results\n\n2"})
        assert new == card.replace("Results\n\n1", "Results\n\n2")

    def test_edits_within_our_sections_are_overwritten(self):
        assert again(first().replace("About.", "Mine.")) == first()

    def test_a_section_without_facts_leaves(self):
        fewer = {name: text for name, text in SECTIONS.items() if name != "results"}
        assert again(first(), sections=fewer) == first(sections=fewer)

    def test_a_new_section_comes_after_its_neighbour(self):
        fewer = {name: text for name, text in SECTIONS.items() if name != "results"}
        card = first(sections=fewer).replace("<!-- /dvpo:about -->", "<!-- /dvpo:about -->\n\nMine.")
        body = again(card).replace("\n\nMine.", "", 1)
        assert body == first() and "Mine." in again(card)
        for absent in SECTIONS:  # the first, one between, the last
            fewer = {name: text for name, text in SECTIONS.items() if name != absent}
            assert again(first(sections=fewer)) == first()

    def test_a_moved_section_stays_where_it_was_put(self):
        card = first()
        results = "<!-- dvpo:results -->\n## Results\n\n1\n<!-- /dvpo:results -->"
        moved = card.replace(results + "\n\n", "").replace("# title", f"# title\n\n{results}")
        assert again(moved) == moved

    def test_a_card_written_by_hand_gets_our_sections_once(self):
        hand = "---\nlicense: mit\n---\n# By hand\n\nText.\n"
        card = again(hand)
        assert "# By hand\n\nText.\n\n<!-- dvpo:about -->" in card and "title" not in card
        assert again(card) == card and card.count("dvpo:about") == 2
        assert "Just text.\n\n<!-- dvpo:about -->" in again("Just text.")

    @pytest.mark.parametrize("previous", ["", "\n", "---\nlicense: mit\n---\n"])
    def test_an_empty_card_is_a_new_one(self, previous):
        assert ModelCard(again(previous)).text == ModelCard(first()).text.replace("# title", "# other title")

    def test_the_form_that_transformers_leaves_is_no_text_of_the_users(self):
        """`push_to_hub` of transformers writes a form full of [More Information Needed] where there is no card."""
        text = (
            "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has "
        )
        form = str(
            ModelCard.from_template(ModelCardData(tags=[]), model_description=text + "been automatically generated.")
        )
        assert "More Information Needed" in form
        assert ModelCard(again(form)).text == ModelCard(first()).text.replace("# title", "# other title")
        filled = form.replace("[More Information Needed]", "Me.", 1)
        assert "Me." in again(filled) and "## Citation" in again(filled)

    def test_lines_that_end_as_on_windows(self):
        card = first().replace("# title", "# title\n\nMine.")
        assert again(card.replace("\n", "\r\n")) == card

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("<!-- /dvpo:results -->", "", "has <!-- dvpo:results --> without its other end"),
            ("<!-- dvpo:results -->", "", "has <!-- /dvpo:results --> without its other end"),
            ("# title", "<!-- dvpo:about -->\nx\n<!-- /dvpo:about -->", "has the section 'about' twice"),
        ],
    )
    def test_what_is_ours_must_be_clear(self, old, new, message):
        with pytest.raises(CardError, match=message):
            again(first().replace(old, new, 1))

    @given(before=st.text(), between=st.text(), after=st.text())
    def test_any_text_of_the_users_survives(self, before, between, after):
        texts = [text.replace("\r", "").replace("<!--", "") for text in (before, between, after)]
        card = first().replace("# title", f"# {texts[0]}")
        card = card.replace("<!-- /dvpo:about -->", f"<!-- /dvpo:about -->\n{texts[1]}")
        card = card.replace("<!-- dvpo:metadata", f"x{texts[2]}\n\n<!-- dvpo:metadata")
        new = again(card, sections={**SECTIONS, "results": "2"})
        assert f"# {texts[0].rstrip()}" in new and f"\n{texts[1]}\n" in new and f"x{texts[2].rstrip()}" in new
        assert again(new, sections={**SECTIONS, "results": "2"}) == new


class TestMetadata:
    def test_ours_are_updated(self):
        new = {"library_name": "peft", "tags": ["ours", "adapter"]}
        assert metadata(again(first(), new)) == new  # base_model is no longer known

    def test_keys_written_by_hand_survive(self):
        card = edited(first(), license="mit", language=["en"])
        assert metadata(again(card)) == {**DATA, "license": "mit", "language": ["en"]}

    def test_a_value_changed_by_hand_survives(self):
        card = again(edited(first(), base_model="mine/b"), {**DATA, "base_model": "c/d"})
        assert metadata(card)["base_model"] == "mine/b"
        assert metadata(again(card, {**DATA, "base_model": "e/f"}))["base_model"] == "mine/b"

    def test_unless_it_is_asked_for_now(self):
        card = edited(first(), base_model="mine/b")
        assert metadata(again(card, {**DATA, "base_model": "c/d"}, forced=["base_model"]))["base_model"] == "c/d"

    def test_a_value_taken_out_by_hand_stays_out(self):
        card = again(edited(first(), base_model=None))
        assert "base_model" not in metadata(card) and "base_model" not in metadata(again(card))

    def test_each_element_of_a_list_counts_for_itself(self):
        card = edited(first(), tags=["critic", "mine"])  # "ours" taken out, "mine" added
        new = again(card, {**DATA, "tags": ["ours", "critic", "new"]})
        assert metadata(new)["tags"] == ["critic", "new", "mine"]
        newer = again(new, {**DATA, "tags": ["ours"]})
        assert metadata(newer)["tags"] == ["mine"]

    def test_a_card_written_by_hand_keeps_all_its_values(self):
        card = again("---\nbase_model: mine/b\ntags: [mine, ours]\n---\nText.")
        assert metadata(card) == {**DATA, "base_model": "mine/b", "tags": ["ours", "critic", "mine"]}

    def test_a_data_set_may_be_no_list(self):
        assert metadata(again("---\ndatasets: mine/d\n---\nText.", {"datasets": ["a/d"]}))["datasets"] == [
            "a/d",
            "mine/d",
        ]

    def test_the_users_results_in_the_model_index_survive(self):
        def result(name, value):
            metrics = [{"type": "crps", "value": value}]
            return {"task": {"type": "t"}, "dataset": {"type": name, "name": name}, "metrics": metrics}

        def index(*results):
            return [{"name": "critic", "results": list(results)}]

        ours = {**DATA, "model-index": index(result("a", 1))}
        card = edited(first(ours), **{"model-index": index(result("a", 1), result("mine", 5))})
        newer = again(card, {**DATA, "model-index": index(result("a", 2))})
        assert yaml.safe_load(newer.split("---\n")[1])["model-index"] == index(result("a", 2), result("mine", 5))
        without = again(newer, DATA)
        assert yaml.safe_load(without.split("---\n")[1])["model-index"] == index(result("mine", 5))

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("a: [", "is no YAML"),
            ("- a", "is list; keys are needed"),
            ("model-index: [1]", "model-index .* is not a list"),
        ],
    )
    def test_metadata_that_cannot_be_read(self, head, message):
        with pytest.raises(CardError, match=message):
            again(f"---\n{head}\n---\nText.")

    def test_a_damaged_record_makes_every_value_the_users(self):
        card = first().replace('metadata {"base_model"', 'metadata {"base_model')
        assert metadata(again(card, {**DATA, "base_model": "c/d"}))["base_model"] == "a/b"
