"""The roofline of a machine and points below it, as SVG; needs no packages."""

from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 960, 520, 70, 30, 560, 430
COLOURS = {"decode": "#1b6ca8", "prefill": "#c0392b", "attention": "#2e8b57"}


def svg(read, peaks, points):
    """read: GB/s; peaks: {name: GFLOP/s}; points: [(name, kind, FLOP per byte, GFLOP/s)], in the order of their numbers."""
    low_x, high_x = -1, ceil(max(log10(p[2]) for p in points) + 0.2)
    low_y, high_y = floor(min(log10(p[3]) for p in points)), ceil(log10(max(peaks.values())))

    def x(intensity):
        return LEFT + (log10(intensity) - low_x) / (high_x - low_x) * PLOT_WIDTH

    def y(rate):
        return TOP + (high_y - log10(rate)) / (high_y - low_y) * PLOT_HEIGHT

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]

    def line(x1, y1, x2, y2, style):
        out.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>')

    def text(at_x, at_y, content, style=""):
        out.append(f'<text x="{at_x:.1f}" y="{at_y:.1f}" {style}>{escape(content)}</text>')

    right, bottom = LEFT + PLOT_WIDTH, TOP + PLOT_HEIGHT
    for e in range(low_x, high_x + 1):
        line(x(10**e), TOP, x(10**e), bottom, 'stroke="#ddd"')
        text(x(10**e), bottom + 16, f"{10.0**e:g}", 'text-anchor="middle"')
    for e in range(low_y, high_y + 1):
        line(LEFT, y(10**e), right, y(10**e), 'stroke="#ddd"')
        text(LEFT - 6, y(10**e) + 4, f"{10.0**e:g}", 'text-anchor="end"')
    text(LEFT + PLOT_WIDTH / 2, bottom + 36, "FLOP per byte read from memory", 'text-anchor="middle"')
    text(16, TOP + PLOT_HEIGHT / 2, "GFLOP/s", f'text-anchor="middle" transform="rotate(-90 16 {TOP + PLOT_HEIGHT / 2})"')

    start = max(10.0**low_x, 10.0**low_y / read)
    line(x(start), y(read * start), x(max(peaks.values()) / read), y(max(peaks.values())), 'stroke="black" stroke-width="2"')
    for name, peak in peaks.items():
        line(x(peak / read), y(peak), right, y(peak), 'stroke="black" stroke-width="2"')
        text(right - 4, y(peak) - 5, f"{name} {peak:,.0f} GFLOP/s", 'text-anchor="end"')
    text(x(start) + 14, y(read * start) - 4, f"reading {read:.1f} GB/s")

    for i, (name, kind, intensity, rate) in enumerate(points, 1):
        out.append(f'<circle cx="{x(intensity):.1f}" cy="{y(rate):.1f}" r="4" fill="{COLOURS[kind]}"/>')
        text(x(intensity) + 5, y(rate) + 12, str(i), f'fill="{COLOURS[kind]}" font-size="10"')
        text(right + 20, TOP + 18 * i, f"{i}  {name}", f'fill="{COLOURS[kind]}"')
    return "\n".join(out) + "\n</svg>\n"
