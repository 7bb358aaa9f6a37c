import { defineConfig } from "vitest/config";

// The bundle goes to where the product serves it from and where the wheel takes it from.
export default defineConfig({
  base: "/ui/",
  build: {
    outDir: "../proxy/control/page/bundle",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  test: { include: ["src/**/*.test.ts"], environment: "node", css: true },
});
