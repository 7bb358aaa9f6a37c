import { render } from "preact";
import "./style/tokens.css";
import "./style/base.css";
import "./style/shell.css";
import "./style/parts.css";
import { Shell } from "./app/Shell.tsx";
import { apply } from "./app/theme.ts";

apply();
const box = document.getElementById("app");
if (box !== null) render(<Shell />, box);
