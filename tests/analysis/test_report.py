"""The page, read and clicked in a real browser where there is one."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import senet
from browsers import assert_named, prefer
from senet import SenetError, record_excitations
from senet.analysis.report import explain, shown_classes, write_report
from senet.cli import main


@pytest.fixture(scope="module")
def page(digits_run, tmp_path_factory) -> Path:
    return explain(digits_run, output=tmp_path_factory.mktemp("page") / "report.html")


def embedded(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_the_page_is_one_small_file(page):
    text = page.read_text()
    assert page.stat().st_size < 8e6
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.findall(r"(?:src|href)=\"(?!data:)", own)  # nothing from elsewhere
    assert "What each gate contributes" in own
    spoken = {"aria-hidden", "aria-label", "aria-labelledby", "aria-live", "aria-pressed"}
    assert set(re.findall(r" (aria-\w+)=", own)) <= spoken  # browsers ignore attributes that do not exist


def test_the_page_holds_the_recording(page, digits_run):
    data, recording = embedded(page), record_excitations(digits_run)
    assert data["classes"] == [str(k) for k in range(10)]
    assert [block["name"] for block in data["blocks"]] == [record.block.name for record in recording.blocks]
    for block, record in zip(data["blocks"], recording.blocks, strict=True):
        chosen = block["channel"]
        assert block["mean"][3] == pytest.approx(record.mean[3, chosen].tolist(), abs=1e-4)
        assert block["deviation"][3] == pytest.approx(record.variance[3, chosen].sqrt().tolist(), abs=1e-4)
    assert len(data["examples"]) == 10
    assert len(data["examples"][0]["SE_4_3"]["raised"]) == 5


def test_without_labels_the_page_says_why(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(folder / "a.png")
    page = explain("cifar_se_resnet20", folder, tmp_path / "report.html")
    assert "The images have no labels, so nothing is drawn by class" in page.read_text()
    assert "Not measured: " in page.read_text()
    assert embedded(page)["classes"] == []


def test_images_of_other_classes_than_the_networks(digits_run, tmp_path):
    """As the paper draws four classes of ImageNet's thousand."""
    for k, name in enumerate(("loop", "bar")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 100 * k + 10 * i).save(tmp_path / "images" / name / f"{i}.png")
    page = explain(digits_run, tmp_path / "images", tmp_path / "report.html")
    assert embedded(page)["classes"] == ["bar", "loop"]
    text = page.read_text()
    assert "<p>6 images of images" in text  # the folder's name above, its path in the footer
    assert f"data: {tmp_path / 'images'}" in text[text.index("<footer>") :]
    assert "Not measured: the network has no class" in text
    assert text.count("predicted: ") == 2
    assert "mistaken for" not in text
    with pytest.raises(SenetError, match=r"no class 'bar', one of 2 that only .* has; the nearest"):
        senet.evaluate(digits_run, tmp_path / "images")


def test_a_recording_of_other_classes_is_refused(digits_run, tmp_path):
    found = record_excitations(digits_run)
    found = replace(found, class_names=tuple(reversed(found.class_names)))
    with pytest.raises(SenetError, match=r"of other classes than digits \(eval\) \(9, 8, 7, 6, 5 and 5 more against 0"):
        explain(digits_run, None, tmp_path / "report.html", recording=found)


def test_names_are_escaped(digits_run, tmp_path):
    recording = record_excitations(digits_run)
    names = ("</script><b>", *recording.class_names[1:])
    page = write_report(tmp_path / "r.html", replace(recording, class_names=names))
    assert "<b>" not in page.read_text().replace("<b>%", "").split("<script>")[0]
    assert embedded(page)["classes"][0] == "</script><b>"


def test_of_many_classes_some_are_shown(digits_run):
    recording = record_excitations(digits_run)
    blocks = tuple(
        replace(r, count=r.count.repeat(100), mean=r.mean.repeat(100, 1), variance=r.variance.repeat(100, 1))
        for r in recording.blocks
    )
    many = replace(recording, blocks=blocks, class_names=tuple(map(str, range(1000))))
    shown = shown_classes(many)
    assert 100 < len(shown) < 1000
    assert shown[0] == 0


def drawn(browser, figure: str = "by-class") -> list:
    """The curves of a figure, as the browser has them."""
    script = "return document.getElementById(arguments[0]).data.map(t => [t.name, Array.from(t.y), Array.from(t.x)])"
    return browser.execute_script(script, figure)


def test_names_are_escaped_in_the_figures(digits_run, tmp_path, browser):
    """Plotly takes tags in any text for markup."""
    name = "<b>R&amp;D</b>"
    recording = record_excitations(digits_run)
    page = write_report(tmp_path / "r.html", replace(recording, class_names=(name, *recording.class_names[1:])))
    browser.get(page.as_uri())
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#by-class .legendtext')].map(t => t.textContent)"
    )
    assert shown[:2] == ["all images", name]
    browser.execute_script("document.getElementById('within').value = 0; drawWithin(data.blocks[0])")
    title = browser.execute_script("return document.querySelector('#within-class .gtitle').textContent")
    assert title.endswith(f"gates within {name}")


def test_choosing_a_block_and_a_class_changes_the_figures(page, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    started = time.perf_counter()
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"
    assert time.perf_counter() - started < 10  # two seconds on a machine that does nothing else
    data = embedded(page)

    last = data["blocks"][-1]
    assert [name for name, _, _ in drawn(browser)] == ["all images", "0", "2", "4", "6"]
    assert drawn(browser)[1][1] == pytest.approx(last["mean"][0])
    assert "SE_4_3" in browser.find_element(By.ID, "gates-heading").text

    buttons = browser.find_elements(By.CSS_SELECTOR, "button[data-block]")
    assert len(buttons) == 9
    buttons[3].click()
    assert drawn(browser)[0][1] == pytest.approx(data["blocks"][3]["allMean"])
    assert "SE_3_1" in browser.find_element(By.ID, "gates-heading").text
    assert [b.get_attribute("aria-pressed") for b in buttons].index("true") == 3

    box = browser.find_element(By.CSS_SELECTOR, "input[name=class][value='5']")
    box.send_keys(Keys.SPACE)  # by keyboard
    assert [name for name, _, _ in drawn(browser)] == ["all images", "0", "2", "4", "5", "6"]
    assert drawn(browser)[4][1] == pytest.approx(data["blocks"][3]["mean"][5])

    buttons[0].send_keys(Keys.ENTER)
    assert drawn(browser)[0][2] == data["blocks"][0]["channel"]

    select = browser.find_element(By.ID, "within")
    select.send_keys("7")
    assert drawn(browser, "within-class")[2][1] == pytest.approx(data["blocks"][0]["mean"][7])
    assert "7" in browser.find_element(By.ID, "within-class-text").text

    table = browser.find_element(By.ID, "by-class-table").get_attribute("textContent")
    assert table.startswith("channelall images02456" + "0" + f"{data['blocks'][0]['allMean'][0]:.3f}")

    assert drawn(browser, "accuracy-curve")[0][2] == [1, 2, 3]
    raised = browser.find_element(By.CSS_SELECTOR, "[data-example='0'] .raised").text
    channel, by = data["examples"][0]["SE_2_1"]["raised"][0]
    assert raised.startswith(f"{channel} (")
    assert f"{abs(by):.2f}" in raised
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_phones_and_dark_rooms(page, browser):
    from selenium.webdriver.support.wait import WebDriverWait

    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    prefer(browser, "dark")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert color == "rgb(18, 22, 27)"
    paper = "return document.getElementById('by-class').layout.paper_bgcolor"
    assert browser.execute_script(paper) == "#12161b"
    prefer(browser, "light")
    WebDriverWait(browser, 10).until(lambda browser: browser.execute_script(paper) == "#ffffff")


def test_a_screen_reader_finds_everything_by_name(page, browser):
    browser.get(page.as_uri())
    named = assert_named(browser, ("button", "checkbox", "combobox", "image", "region", "DisclosureTriangle"))
    assert named["button"][0].startswith("SE_2_1 ")
    assert any(name.startswith("50 channels at equal distances") for name in named["image"])


# ---- command line ----------------------------------------------------------------------------------------------------


def test_the_commands(digits_run, tmp_path, capsys):
    gates = tmp_path / "gates.safetensors"
    assert main(["record", str(digits_run), "--output", str(gates)]) == 0
    assert "SE_4_3" in capsys.readouterr().out
    assert main(["record", str(digits_run), "--output", str(gates), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[8]["block"] == "SE_4_3"
    page = tmp_path / "report.html"
    arguments = ["--recording", str(gates), "--no-knockout", "--examples", "2", "--output", str(page)]
    assert main(["explain", str(digits_run), *arguments]) == 0
    assert len(embedded(page)["examples"]) == 2
    assert "What each gate contributes" not in page.read_text()
    pruned = tmp_path / "pruned"
    assert (
        main(
            [
                "prune",
                str(digits_run),
                "--output",
                str(pruned),
                "--recording",
                str(gates),
                "--blocks",
                "SE_4_3",
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["blocks"] == ["SE_4_3"]
    assert senet.evaluate(pruned, "digits").top1 == pytest.approx(report["after"]["evaluation"]["top1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "cifar_se_resnet20"], "data is missing"),
        (["explain", "RUN", "--output", "RUN/config.json/x.html"], "cannot be written"),
        (["explain", "RUN", "--output", "RUN"], "cannot be written (it is a folder)"),
        (["explain", "RUN", "--recording", "RUN/config.json"], "is not a recording of excitations"),
        (["record", "RUN", "--data", "nowhere", "--output", "x.safetensors"], "--data is 'nowhere'"),
        (["prune", "RUN", "--output", "RUN"], "exists already; name another folder"),
        (["prune", "RUN", "--output", "RUN2", "--blocks", "SE_9_9"], "there is no block 'SE_9_9'; the nearest are"),
    ],
)
def test_bad_input_is_one_sentence(digits_run, arguments, message, capsys):
    assert main([word.replace("RUN", str(digits_run)) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "kind", "suffix"),
    [
        (["explain", "RUN", "--output"], "a page", ".html"),
        (["evaluate", "RUN", "--report"], "a page", ".html"),
        (["runs", "RUN", "--curves"], "a page", ".html"),
        (["record", "RUN", "--output"], "a recording", ".safetensors"),
    ],
)
def test_files_of_something_else_are_not_replaced(command, kind, suffix, digits_run, tmp_path, capsys):
    weights, notes = tmp_path / "model.safetensors", tmp_path / "notes.html"
    weights.write_bytes((digits_run / "best" / "model.safetensors").read_bytes())
    notes.write_text("<p>my own</p>")
    config = digits_run / "config.json"
    for taken in (config, weights, notes):
        before = taken.read_bytes()
        assert main([str(digits_run) if word == "RUN" else word for word in [*command, str(taken)]]) == 2
        if taken.suffix == suffix:
            said = f"{taken} exists and is not {kind} that senet wrote; name another output, or remove it"
        else:
            said = f"{taken} does not end in {suffix}, as {kind} does; name another output"
        assert capsys.readouterr().err == f"senet: {said}\n"
        assert taken.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["record", "RUN", "--output"], "x.safetensors"),
        (["explain", "RUN", "--output"], "x.html"),
        (["prune", "RUN", "--output"], "x"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, name, digits_run, capsys, monkeypatch):
    def work(*_args, **_options):
        raise AssertionError("worked in vain")

    monkeypatch.setattr("senet.cli.analysis.record_excitations", work)
    output = str(digits_run / "config.json" / name)
    assert main([str(digits_run) if word == "RUN" else word for word in [*command, output]]) == 2
    reason = f"{digits_run / 'config.json'} is not a folder"
    assert f"senet: {output} cannot be written ({reason}); name another output\n" == capsys.readouterr().err


def test_a_model_without_gates_says_so(tmp_path):
    with pytest.raises(SenetError, match="has no gates"):
        explain(senet.create_model("cifar_resnet20", in_channels=1), "digits", tmp_path / "r.html")
