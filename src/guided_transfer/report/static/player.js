// Every video of the page on the same frame.
"use strict";

const player = document.getElementById("player");
const charts = [...document.querySelectorAll(".chart")];
const scrub = document.getElementById("scrub");

if (player) {
  const fps = Number(player.dataset.fps);
  const numFrames = Number(player.dataset.frames);
  const videos = [...player.querySelectorAll("video")];
  const play = document.getElementById("play");
  const speed = document.getElementById("speed");
  let current = 0;
  let playing = false;

  const active = () => videos.filter((video) => !video.closest("figure").hidden);
  const frameOf = (video) => Math.min(numFrames - 1, Math.floor(video.currentTime * fps + 1e-3));

  function show(frame) {
    current = frame;
    scrub.value = frame;
    document.getElementById("frame").value = frame;
    for (const chart of charts) {
      const cursor = chart.querySelector(".cursor");
      cursor.hidden = false;
      cursor.style.left = `${(100 * (frame + 0.5)) / Number(chart.dataset.frames)}%`;
      for (const output of chart.querySelectorAll("output")) {
        output.series ??= JSON.parse(output.dataset.values);
        const value = output.series[frame];
        output.value = value == null ? "" : value.toPrecision(3);
      }
    }
  }

  function seek(frame) {
    frame = Math.max(0, Math.min(numFrames - 1, frame));
    for (const video of videos) video.currentTime = (frame + 0.5) / fps; // the middle of the frame
    show(frame);
  }

  function stop() {
    playing = false;
    play.textContent = "Play";
    for (const video of videos) video.pause();
    seek(current); // all on the frame that is shown
  }

  async function start() {
    playing = true;
    play.textContent = "Pause";
    if (current >= numFrames - 1) seek(0);
    const wanted = active();
    for (const video of wanted) video.playbackRate = Number(speed.value);
    await Promise.allSettled(wanted.map((video) => video.play()));
    requestAnimationFrame(follow);
  }

  // The first video leads; the others run a little faster or slower until they agree with it.
  function follow() {
    if (!playing) return;
    const [lead, ...others] = active();
    if (!lead || lead.ended) {
      if (lead) current = numFrames - 1;
      stop();
      return;
    }
    const rate = Number(speed.value);
    lead.playbackRate = rate;
    for (const video of others) {
      const behind = lead.currentTime - video.currentTime;
      if (Math.abs(behind) > 3 / fps) video.currentTime = lead.currentTime;
      else video.playbackRate = rate * (1 + Math.max(-0.5, Math.min(0.5, behind * fps * 0.5)));
    }
    show(frameOf(lead));
    requestAnimationFrame(follow);
  }

  const toggle = () => (playing ? stop() : start());
  const step = (frames) => {
    if (playing) stop();
    seek(current + frames);
  };

  play.addEventListener("click", toggle);
  document.getElementById("back").addEventListener("click", () => step(-1));
  document.getElementById("forward").addEventListener("click", () => step(1));
  scrub.addEventListener("input", () => step(Number(scrub.value) - current));

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, button, summary") && event.target.id !== "play") return;
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const stride = event.shiftKey ? 10 : 1;
    const actions = {
      " ": toggle,
      ArrowLeft: () => step(-stride),
      ArrowRight: () => step(stride),
      Home: () => step(-numFrames),
      End: () => step(numFrames),
    };
    if (!(event.key in actions) || (event.key === " " && event.target.id === "play")) return;
    event.preventDefault();
    actions[event.key]();
  });

  for (const box of document.querySelectorAll(".kinds input")) {
    box.addEventListener("change", () => {
      for (const figure of player.querySelectorAll(`figure[data-kind="${box.value}"]`)) figure.hidden = !box.checked;
      stop();
    });
  }

  for (const chart of charts) {
    const plot = chart.querySelector(".plot");
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      step(Math.floor(((event.clientX - box.left) / box.width) * Number(chart.dataset.frames)) - current);
    };
    plot.addEventListener("pointerdown", at);
    plot.addEventListener("pointermove", (event) => event.buttons && at(event));
  }

  seek(0);
}
