"""The page of `--to web` in a real browser: what it computes is what senet computes, and it is usable by everybody."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import senet
from browsers import assert_named, prefer, started
from deployment.page_in_browser import RESULT, classified, computed, opened, problems, smooth
from senet.analysis.gates import find_blocks
from senet.data.reading import read_picture
from senet.deployment.to_web import TIMES
from static_sites import axe_core, onnxruntime_web, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    network = senet.create_model("cifar_se_resnet20", pretrained=True).eval()
    network.class_names = tuple(f"<script>alert()</script><b>{name}" for name in network.class_names)
    return network


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    return onnxruntime_web(tmp_path_factory.mktemp("onnxruntime-web"))


@pytest.fixture(scope="module")
def site(model, runtime, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "my page"
    senet.export(model, folder, to="web", onnxruntime_web=runtime)
    return folder


@pytest.fixture(scope="module")
def address(site):
    with served(site) as (address, _):
        yield address


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def browser(chromium):
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    turned = Image.Exif()
    turned[0x0112] = 6
    wide, opaque = smooth(433, 301), {"quality": 88}
    wide.save(folder / "turned.jpg", exif=turned, **opaque)
    wide.save(folder / "progressive.jpg", progressive=True, **opaque)
    wide.save(folder / "444.jpg", subsampling=0, **opaque)
    wide.convert("L").save(folder / "gray.jpg")
    smooth(64, 500, 1).save(folder / "gray, tall.png")
    smooth(200, 120, 4).save(folder / "alpha.png")
    smooth(200, 120, 2).save(folder / "gray alpha.png")
    wide.convert("P").save(folder / "palette.png", transparency=3)
    smooth(2600, 1900).save(folder / "large.jpg", **opaque)
    smooth(9, 5).save(folder / "tiny.png")
    wide.save(folder / "a.webp", quality=80)
    wide.save(folder / "a.gif")
    return {path.name: path for path in sorted(folder.iterdir())}


def test_the_page_computes_what_senet_computes(browser, address, model, pictures):
    opened(browser, address)
    for path, found in zip(pictures.values(), classified(browser, *pictures.values()), strict=True):
        pixels, probabilities, gates = computed(model, path)
        assert isinstance(found, dict), (path.name, found)
        picture = read_picture(path)
        assert (found["width"], found["height"]) == picture.size
        # Other releases of Chromium or Pillow may decode a JPEG with another rounding.
        assert np.abs(np.array(found["pixels"]) - pixels.astype(int)).max() <= (1 if path.suffix != ".png" else 0), (
            path.name
        )
        tolerance = 1e-5 if np.array_equal(found["pixels"], pixels) else 0.02
        assert np.abs(np.array(found["probabilities"]) - probabilities).max() < tolerance, path.name
        for ours, theirs in zip(found["gates"], gates, strict=True):
            assert np.abs(np.array(ours) - theirs).max() < tolerance, path.name
        top = found["classes"][0]
        assert top["index"] == probabilities.argmax()
        assert top["name"] == model.class_names[probabilities.argmax()]
        assert not found["blended"]
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert said == []


def test_partly_transparent_pictures_of_other_kinds_are_said_to_differ(browser, address, model, tmp_path):
    opened(browser, address)
    path = tmp_path / "alpha.webp"
    smooth(200, 120, 4).save(path, lossless=True)
    (found,) = classified(browser, path)
    assert found["blended"]
    assert "partly transparent" in browser.find_element("id", "results").text
    assert np.abs(np.array(found["probabilities"]) - computed(model, path)[1]).max() < 0.1


def test_names_are_text(browser, address, model, tmp_path):
    opened(browser, address)
    path = tmp_path / "<img src=x onerror=alert()>.png"
    smooth(50, 40).save(path)
    (found,) = classified(browser, path)
    shown = browser.find_element("id", "results").text
    assert path.name in shown
    assert all(each["name"] in shown for each in found["classes"])
    assert browser.find_elements("css selector", "#results b, #results script, #results [onerror]") == []


def test_what_the_page_shows(browser, address, model, pictures):
    opened(browser, address)
    first, second = pictures["turned.jpg"], pictures["tiny.png"]
    found = classified(browser, first, second)
    articles = browser.find_elements("css selector", "#results article")
    assert [each.find_element("tag name", "h2").text for each in articles] == ["tiny.png", "turned.jpg"]
    for article, result in zip(reversed(articles), found, strict=True):
        rows = article.find_elements("css selector", ".picture tbody tr")
        assert [row.find_element("tag name", "th").text for row in rows] == [each["name"] for each in result["classes"]]
        assert [row.find_element("css selector", ".number").text for row in rows] == [
            f"{100 * each['probability']:.1f} %" for each in result["classes"]
        ]
        assert f"{result['width']} {TIMES} {result['height']} pixels · read in" in article.text
        gates = article.find_elements("css selector", ".gates tbody tr")
        for row, block, values in zip(gates, find_blocks(model), result["gates"], strict=True):
            texts = [cell.text for cell in row.find_elements("css selector", "th, td")][:4]
            size = f" {TIMES} ".join(map(str, (block.channels, *block.side)))
            assert texts == [block.name, size, f"{np.mean(values):.3f}", f"{np.std(values):.3f}"]
            strip = row.find_element("tag name", "canvas")
            lowest, highest = int(np.argmin(values)), int(np.argmax(values))
            said = strip.get_attribute("aria-label")
            assert f"lowest gate {values[lowest]:.3f} in channel {lowest}" in said
            assert f"highest {values[highest]:.3f} in channel {highest}" in said
            assert strip.get_property("width") == block.channels
    status = browser.find_element("id", "status").text
    assert status == f"tiny.png: {found[1]['classes'][0]['name']}, {100 * found[1]['classes'][0]['probability']:.1f} %"
    browser.find_element("css selector", "#clear button").click()
    assert browser.find_elements("css selector", "#results li") == []
    assert browser.switch_to.active_element.get_attribute("id") == "files"


DROPPED = """
const [kind, name, size] = arguments;
const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
canvas.getContext("2d").fillRect(0, 0, size, size);
canvas.toBlob((blob) => {
  const data = new DataTransfer();
  if (size > 1) data.items.add(new File([blob], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
  document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options));
});
"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(browser, address, kind):
    opened(browser, address)
    browser.execute_script(DROPPED, kind, "given.png", 40)
    found = browser.execute_async_script(RESULT, "given.png")
    assert (found["width"], found["height"]) == (40, 40)
    browser.execute_script(DROPPED, kind, "nothing.png", 1)
    assert browser.execute_async_script(RESULT, "nothing.png").startswith("No file was given")


def test_files_that_are_no_pictures(browser, address, tmp_path, pictures):
    opened(browser, address)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(pictures["alpha.png"].read_bytes()[:999])
    for name in ("notes.txt", "cut.png"):
        (found,) = classified(browser, tmp_path / name)
        assert found == f"{name} is not a picture that this browser can decode; choose a JPEG, PNG, WebP or GIF file."
    (found,) = classified(browser, pictures["tiny.png"])  # and goes on
    assert found["width"] == 9
    assert problems(browser) == ""


def test_opened_as_a_file_it_says_what_to_do(browser, site):
    browser.get((site / "index.html").as_uri())
    notice = browser.find_element("id", "not-started")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda _: notice.is_displayed())
    assert "python -m http.server --directory 'my page'" in notice.text
    assert not browser.find_element("id", "pictures").is_displayed()


def test_what_is_missing_is_named(browser, site):
    for name in ("model.onnx", "model.json", "onnxruntime/ort.wasm"):
        with served(site, missing={f"/{name}"}) as (address, _):
            opened(browser, address, "failed")
            assert problems(browser) == f"{name} cannot be fetched (404); copy the whole folder to the server"
    with served(site, missing={"/onnxruntime/ort.js"}) as (address, _):
        opened(browser, address, "failed")
        assert "onnxruntime/ort.js cannot be loaded" in problems(browser)


STRICT = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)


def test_a_strict_policy_and_no_other_host(browser, site, pictures):
    with served(site, {"Content-Security-Policy": STRICT, "X-Content-Type-Options": "nosniff"}) as (address, asked):
        opened(browser, address)
        (found,) = classified(browser, pictures["turned.jpg"])
        assert isinstance(found, dict), found
        fetched = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert len(fetched) >= 6
    assert all(name.startswith((address, f"blob:{address}")) for name in fetched)
    assert {path for path in asked if path != "/"} <= {f"/{file.relative_to(site)}" for file in site.rglob("*")}
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_where_webassembly_is_forbidden(browser, site):
    with served(site, {"Content-Security-Policy": STRICT.replace("'wasm-unsafe-eval'", "")}) as (address, _):
        opened(browser, address, "failed")
        assert problems(browser).startswith(
            "WebAssembly is not allowed on this page; its server has to send 'wasm-unsafe"
        )


def test_threads_where_the_host_allows_them(browser, site, model, pictures):
    isolated = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
    with served(site, {**isolated, "Content-Security-Policy": STRICT}) as (address, _):
        opened(browser, address)
        (found,) = classified(browser, pictures["turned.jpg"])
        cores = browser.execute_script("return navigator.hardwareConcurrency")
        assert cores < 4 or " threads of this device" in browser.find_element("id", "speed").text
    assert np.abs(np.array(found["probabilities"]) - computed(model, pictures["turned.jpg"])[1]).max() < 0.02


def test_keyboard_and_screen_reader(browser, address, pictures):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, address)
    classified(browser, pictures["turned.jpg"])
    reached = []
    browser.execute_script("document.activeElement.blur()")
    for _ in range(8):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        now = browser.switch_to.active_element
        reached.append(now.get_attribute("id") or now.tag_name)
    assert {"files", "button", "summary", "div", "a"} <= set(reached)
    named = assert_named(browser, ("article", "region", "table", "image", "button"))
    assert "Gates of turned.jpg" in named["region"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_core_finds_nothing(browser, address, pictures, scheme, tmp_path):
    script = axe_core(tmp_path)
    prefer(browser, scheme)
    opened(browser, address)
    classified(browser, pictures["turned.jpg"], pictures["tiny.png"])
    (tmp_path / "notes.txt").write_text("no picture")
    classified(browser, tmp_path / "notes.txt")
    browser.execute_script(script)
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20
    prefer(browser, "light")


def test_phones_and_dark_rooms(browser, address, pictures):
    phone = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    prefer(browser, "dark")
    opened(browser, address)
    classified(browser, pictures["turned.jpg"])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert color == "rgb(18, 22, 27)"
    prefer(browser, "light")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_network_for_gray_pictures(browser, digits_run, runtime, tmp_path):
    senet.export(digits_run, tmp_path / "digits", to="web", onnxruntime_web=runtime)
    model = senet.from_pretrained(digits_run)
    path = tmp_path / "color.png"
    smooth(77, 50).save(path)
    with served(tmp_path / "digits") as (address, _):
        opened(browser, address)
        (found,) = classified(browser, path)
    pixels, probabilities, gates = computed(model, path)
    assert found["pixels"] == pixels.tolist()
    assert np.abs(np.array(found["probabilities"]) - probabilities).max() < 1e-5
    assert np.abs(np.concatenate(found["gates"]) - np.concatenate(gates)).max() < 1e-5


def test_a_network_without_blocks(browser, runtime, tmp_path, pictures):
    plain = senet.create_model("cifar_resnet20").eval()
    senet.export(plain, tmp_path / "plain", to="web", onnxruntime_web=runtime)
    with served(tmp_path / "plain") as (address, _):
        opened(browser, address)
        (found,) = classified(browser, pictures["tiny.png"])
        assert browser.find_elements("tag name", "details") == []
        assert not browser.find_element("id", "gates-explained").is_displayed()
    assert [each["name"] for each in found["classes"]] == [f"output {each['index']}" for each in found["classes"]]
