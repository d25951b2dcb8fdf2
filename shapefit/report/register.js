"use strict";
shapefit.run(() => {
  const checks = document.getElementById("checks");
  const apply = () => document.querySelectorAll(".stack").forEach((stack) => stack.classList.toggle("checks", checks.checked));
  checks.addEventListener("change", apply);
  apply();
});
