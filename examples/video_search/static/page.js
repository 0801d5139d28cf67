// Plays a scene where it is found, and takes a picture that is dropped or pasted. Without it the links and forms still work.

const player = document.querySelector("video");
const error = document.getElementById("error");
const picture = document.querySelector("input[type=file]");

function complain(words) {
  error.textContent = words;
  error.hidden = false;
}

function show(scene, play) {
  const { start, end, duration } = scene.dataset;
  document.querySelector("[aria-current]")?.removeAttribute("aria-current");
  scene.setAttribute("aria-current", "true");
  // The address ends in #t=start,end: the player begins and pauses there.
  player.src = scene.href;
  document.querySelector("svg").setAttribute("viewBox", `0 0 ${duration} 1`);
  const mark = document.querySelector("rect");
  mark.setAttribute("x", start);
  mark.setAttribute("width", end - start);
  document.getElementById("caption").textContent =
    `${scene.querySelector(".name").textContent}, ${scene.querySelector(".time").textContent}`;
  // A browser that forbids it leaves the first frame of the scene, and the controls.
  if (play) player.play().catch(() => {});
}

if (player) {
  const scenes = document.querySelectorAll("ol a");
  player.addEventListener("error", () => complain("This browser cannot play this video."));
  for (const scene of scenes) {
    scene.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      show(scene, true);
      player.scrollIntoView({ block: "nearest" });
    });
  }
  show(scenes[0], !matchMedia("(prefers-reduced-motion: reduce)").matches);
}

function search(files) {
  if (!files.length) return;
  if (files[0].size > Number(picture.dataset.maxBytes)) {
    complain("The picture is too large.");
    return;
  }
  picture.files = files;
  picture.form.requestSubmit();
}

picture.addEventListener("change", () => search(picture.files));
addEventListener("paste", (event) => search(event.clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", () => document.body.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  search(event.dataTransfer.files);
});
