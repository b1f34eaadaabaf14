# ruff: noqa: E501 - the width of other scripts
"""Strings to count: natural text of many scripts, code, keys, and code points at random; the same in every run."""

import base64
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

NATURAL = {
    "german": "Die Suche nach einer Bedeutung ist keine Suche nach einem Wort. Wer Überschriften und Absätze größerer "
    "Dokumente zerlegt, muss wissen, wo ein Gedanke endet; sonst verliert der Leser den Zusammenhang zwischen den Sätzen.",
    "french": "La recherche sémantique compare le sens des phrases plutôt que leurs mots. Un document modifié n’est pas "
    "envoyé tout entier : seuls les passages qui ont changé sont calculés à nouveau, et les autres restent où ils étaient.",
    "russian": "Поиск по смыслу сравнивает не слова, а значения предложений. Когда документ изменяется, заново "
    "вычисляются только те отрывки, которые действительно стали другими, а остальные остаются на своих местах.",
    "greek": "Η αναζήτηση με βάση το νόημα συγκρίνει προτάσεις και όχι λέξεις. Όταν αλλάζει ένα έγγραφο, υπολογίζονται "
    "ξανά μόνο τα αποσπάσματα που έγιναν διαφορετικά, ενώ τα υπόλοιπα μένουν στη θέση τους.",
    "arabic": "يقارن البحث الدلالي معاني الجمل لا كلماتها. وعندما تتغير وثيقة فلا تحسب من جديد إلا المقاطع التي "
    "تغيرت فعلا، أما سائر المقاطع فتبقى في مكانها كما كانت من قبل.",
    "hebrew": "חיפוש לפי משמעות משווה בין משפטים ולא בין מילים. כאשר מסמך משתנה מחושבים מחדש רק הקטעים שבאמת השתנו, "
    "וכל השאר נשארים במקומם כפי שהיו קודם.",
    "hindi": "अर्थ पर आधारित खोज शब्दों की नहीं, वाक्यों के अर्थ की तुलना करती है। जब कोई दस्तावेज़ बदलता है तो केवल वही अंश "
    "फिर से गिने जाते हैं जो सचमुच बदल गए हैं, और बाकी अपनी जगह पर बने रहते हैं।",
    "thai": "การค้นหาตามความหมายเปรียบเทียบประโยคไม่ใช่คำ เมื่อเอกสารเปลี่ยนไป จะคำนวณใหม่เฉพาะส่วนที่เปลี่ยนจริงเท่านั้น "
    "ส่วนอื่นยังคงอยู่ที่เดิม",
    "japanese": "意味による検索は、言葉ではなく文の意味を比べます。文書が変更されたとき、実際に変わった部分だけを計算し直し、"
    "残りの部分はそのまま元の場所に残ります。長い段落は文の終わりで区切られます。",
    "chinese": "语义搜索比较的是句子的含义，而不是词语本身。当文档发生变化时，只有真正改变的段落才会重新计算，其余的部分保持"
    "原来的位置不变。较长的段落会在句子结束的地方被分开。",
    "korean": "의미 기반 검색은 단어가 아니라 문장의 뜻을 비교합니다. 문서가 바뀌면 실제로 달라진 부분만 다시 계산하고 나머지는 "
    "원래 자리에 그대로 남습니다. 긴 문단은 문장이 끝나는 곳에서 나뉩니다.",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ 😀😃😄 🧑🏿‍🚀 ✅ ",
}


def strings(number: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """A kind and a string of 1 to 400 characters, `number` times, all kinds in turn."""
    chosen = random.Random(seed)
    texts = NATURAL | {
        "english": "\n\n".join(topics[name] for name in sorted(topics)),
        "code": _code(),
        "json": json.dumps(
            [{"id": n, "name": f"entry_{n}", "value": n * 0.37} for n in range(400)], indent=1
        ),
    }
    made = {
        "base64": lambda length: base64.b64encode(chosen.randbytes(length)).decode()[:length],
        "hex": lambda length: chosen.randbytes(length).hex()[:length],
        "numbers": lambda length: ", ".join(str(chosen.randrange(10**6)) for _ in range(length // 8 + 1)),
        "white space": lambda length: "".join(chosen.choices([" ", "\n", "\t", "\r\n", "x", "."], k=length)),
        "rare ideographs": lambda length: _points(chosen, length, 0x20000, 0x2EBE0),
        "any character": lambda length: _points(chosen, length, 1, 0x110000),
    }
    kinds = [*texts, *made]
    for at in range(number):
        kind, length = kinds[at % len(kinds)], chosen.randint(1, 400)
        if kind in made:
            yield kind, made[kind](length)
        else:
            text = texts[kind] * (400 // len(texts[kind]) + 2)
            start = chosen.randrange(len(text) - length)
            yield kind, text[start : start + length]


def _code() -> str:
    library = Path(sysconfig.get_path("stdlib"))
    return "".join(
        (library / name).read_text() for name in ("argparse.py", "asyncio/tasks.py", "json/decoder.py")
    )


def _points(chosen: random.Random, length: int, first: int, last: int) -> str:
    """Characters that can stand in a text: surrogates cannot."""
    points = (chosen.randrange(first, last) for _ in range(length))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
