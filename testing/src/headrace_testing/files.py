"""Files for tests that read files, made with widely used libraries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from docx import Document
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

KOREAN_FONT = "HYSMyeongJo-Medium"


def pdf(pages: Sequence[Sequence[tuple[str, str]]], title: str = "", **options: Any) -> bytes:
    """Return a PDF whose pages contain (style, text) pairs; style is Title, Heading1, BodyText or korean."""
    pdfmetrics.registerFont(UnicodeCIDFont(KOREAN_FONT))
    styles = getSampleStyleSheet()
    korean = styles["BodyText"].clone("korean", fontName=KOREAN_FONT)
    story: list[Any] = []
    for page in pages:
        story += [PageBreak()] if story else []
        story += [Paragraph(text, korean if style == "korean" else styles[style]) for style, text in page]
    target = io.BytesIO()
    SimpleDocTemplate(target, pagesize=A4, title=title or None, **options).build(story)
    return target.getvalue()


def pdf_with_table(rows: Sequence[Sequence[str]]) -> bytes:
    """Return a PDF that contains a table with lines around its cells."""
    target = io.BytesIO()
    SimpleDocTemplate(target).build([Table(rows, style=[("GRID", (0, 0), (-1, -1), 1, "black")])])
    return target.getvalue()


def pdf_with_field(value: str) -> bytes:
    """Return a PDF with one filled-in form field."""
    target = io.BytesIO()
    canvas = Canvas(target)
    canvas.drawString(72, 720, "Name:")
    canvas.acroForm.textfield(name="name", value=value, x=120, y=710, width=200, height=20)
    canvas.save()
    return target.getvalue()


def encrypted_pdf() -> bytes:
    """Return a PDF that requires a password."""
    return pdf([[("BodyText", "secret words")]], encrypt=StandardEncryption("password", canPrint=0))


def many_pages(count: int) -> bytes:
    """Return a PDF with this number of pages, one word each; it is built by hand, because libraries take minutes."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for number in range(count):
        kids.append(f"{len(objects) + 1} 0 R")
        stream = f"BT /F1 12 Tf 72 700 Td (page {number + 1}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Count {count} /Kids [{' '.join(kids)}] >>"
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def docx(title: str = "") -> Any:
    """Return an empty Word document with that title in its properties."""
    document = Document()
    document.core_properties.title = title
    return document


def saved(document: Any) -> bytes:
    """Return a Word document's bytes."""
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()
