"""Random questions about everyday things, in the languages of the models: what a question scores that nothing answers.

The embedder embeds them once for each generation; see :mod:`headrace.store.calibration`. They also tell which words
belong to asking, and not to what is asked about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from headrace.embeddings.models import known_model
from headrace.lexical.analyzer import analyzer_of

_QUESTIONS = {
    "en": (
        "What time does the museum open on Sundays?",
        "How do I bake sourdough bread at home?",
        "Who was the first emperor of Rome?",
        "What is the tallest mountain in South America?",
        "How many players are on a volleyball team?",
        "Which vitamin do oranges contain?",
        "How do I knit a scarf?",
        "What causes earthquakes?",
        "When is the next lunar eclipse?",
        "How do whales sleep?",
        "What are the rights of a tenant when the rent rises?",
        "Which instruments play in a string quartet?",
        "How is paper recycled?",
        "What is the average rainfall in Lisbon?",
        "How do I treat a sprained ankle?",
        "Who invented the telephone?",
        "Where do penguins live?",
        "How do I get from the airport to the city centre?",
        "What does the insurance cover after an accident?",
        "How much does a kilogram of saffron cost?",
        "Which gas do plants take in?",
        "How do I tune a guitar?",
        "What is the plot of Romeo and Juliet?",
        "How long is the warranty for the refrigerator?",
        "Why does milk turn sour?",
        "Which of these can be eaten raw?",
        "When was the castle built, and by whom?",
        "What should I do if the train is late?",
        "Where can I find a good dentist?",
        "Can I take my dog on the ferry?",
        "Does the hotel have a swimming pool?",
        "Who is responsible for the garden?",
        "How often should the lawn be watered?",
        "What is the difference between a frog and a toad?",
        "Why is the sea salty?",
        "How can children learn to swim?",
        "What are the steps to plant a hedge?",
        "Is it possible to grow rice in Europe?",
        "What does the word serendipity mean?",
        "Explain why leaves change their colour",
    ),
    "ko": (
        "박물관은 일요일에 몇 시에 문을 여나요?",
        "집에서 빵을 굽는 방법은 무엇인가요?",
        "로마의 첫 번째 황제는 누구인가요?",
        "남아메리카에서 가장 높은 산은 무엇인가요?",
        "배구 팀의 선수는 몇 명인가요?",
        "오렌지에는 어떤 비타민이 들어 있나요?",
        "목도리는 어떻게 뜨나요?",
        "지진은 왜 일어나나요?",
        "다음 월식은 언제인가요?",
        "고래는 어떻게 잠을 자나요?",
        "집세가 오르면 세입자는 어떤 권리가 있나요?",
        "현악 사중주에는 어떤 악기가 있나요?",
        "종이는 어떻게 재활용하나요?",
        "리스본의 평균 강수량은 얼마인가요?",
        "발목을 삐었을 때 어떻게 치료하나요?",
        "전화기를 발명한 사람은 누구인가요?",
        "펭귄은 어디에 사나요?",
        "공항에서 시내까지 어떻게 가나요?",
        "사고가 나면 보험은 무엇을 보장하나요?",
        "사프란 1킬로그램은 얼마인가요?",
        "식물은 어떤 기체를 흡수하나요?",
        "기타는 어떻게 조율하나요?",
        "로미오와 줄리엣의 줄거리는 무엇인가요?",
        "냉장고의 보증 기간은 얼마나 되나요?",
        "이 기계의 무게는 얼마입니까?",
        "이 약은 하루에 몇 번 먹어야 합니까?",
        "사전은 어떤 순서로 정리되어 있습니까?",
        "비가 오면 경기는 어떻게 됩니까?",
        "시험에 떨어지는 이유는 무엇입니까?",
        "바닷물이 짠 이유는 무엇인가요?",
        "언제까지 신청해야 하나요?",
        "사진은 언제 찍을 수 있나요?",
        "이 노래를 만든 사람은 누구입니까?",
        "낚시는 어디에서 할 수 있습니까?",
        "우표를 모으는 방법은 무엇입니까?",
        "왜 하늘은 파란가요?",
        "개는 얼마나 자주 씻겨야 하나요?",
        "눈이 올 때 운전하면 안 되는 이유는 무엇인가요?",
        "며칠 동안 여행할 수 있나요?",
        "편지를 보내려면 무엇을 사야 하나요?",
    ),
}


def random_questions(model: str) -> list[tuple[str, str]]:
    """Return the language and the text of each question in a language that the model knows."""
    known = known_model(model).languages
    return [
        (language, text) for language, texts in _QUESTIONS.items() if not known or language in known for text in texts
    ]


@lru_cache(maxsize=8)
def rarities_in_questions(analyzer: str) -> Mapping[str, float]:
    """Return the rarities among random questions of the terms that several of them have.

    A passage that answers a question does not ask: the end of a Korean question, which few passages have, would count
    as a rare word of it.
    """
    found: dict[str, float] = {}
    for texts in _QUESTIONS.values():
        counts = Counter(term for text in texts for term in set(analyzer_of(analyzer).terms(text)))
        for term, count in counts.items():
            if count > 1:
                rarity = math.log1p((len(texts) - count + 0.5) / (count + 0.5))
                found[term] = min(rarity, found.get(term, rarity))
    return MappingProxyType(found)
