"""Names for invented people and companies. Addresses are at reserved domains, phone numbers in ranges kept for fiction.

The names are uncommon on purpose: none is an English word, so that finding one in a log means that it leaked.
"""

from __future__ import annotations

import random
import unicodedata


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Aaliyah Adelheid Aleksandra Amadou Anouk Ariadne Aurelio Bartholomew Bérénice Bogdan Branwen Bronwyn Caoimhe Casimir Celestina "
    "Chidiebere Cordelia Cosmin Dagmar Dariusz Desdemona Dimitra Ebenezer Eilidh Eleonora Emeka Énora Evangelos Fatoumata Fenna "
    "Fiammetta Florentyna Gaspard Ginevra Gulnara Gwendolyn Hadewych Hamza Henrike Hildegard Ignatius Ildikó Ingeborg Isolde Jadwiga "
    "Jaromír Jemima Katarzyna Kazimierz Kwabena Leocadia Ljubica Lorcan Łucja Madeleine Magdalena Malgorzata Matthias Mercedes Mireille "
    "Nadezhda Nikolaos Oluwaseun Oriane Ottoline Persephone Philippa Quirijn Radomír Rosalind Rosamund Saoirse Séraphine Siobhán "
    "Stanislav Svetlana Tadhg Tereza Thaddeus Theodora Ulrike Valentijn Veronika Wilhelmina Xiomara Yevgenia Zbigniew Zdenka Zuleikha"
)
LAST = _words(
    "Abernathy Achterberg Adebayo Albescu Ashworthy Balogun Bielawski Birkenfeld Bjornstad Blavatsky Boateng Borgnino Brackenbury "
    "Castellanos Chukwuemeka Cienfuegos Cruickshank Czerwinski Dalgliesh Delacroix Diamantopoulos Dombrowski Drinkwater Dvořáková "
    "Eichelberger Etxeberria Fairweather Featherstone Fitzwilliam Florescu Frankenthal Galbraith Gershwitz Gołębiewska Greenhalgh "
    "Grzybowski Haverkamp Heatherington Hollingsworth Horváthová Iannucci Ikponmwosa Isaksson Jankowska Jóhannsdóttir Kaczmarek "
    "Karlsdotter Kettlewell Kirschbaum Kowalczyk Kristoffersen Lachowicz Lindqvist Longbottom MacAllister Macgillivray Mahlangu "
    "Marchbanks Mastroianni Mbatha Meriwether Montgomerie Mutasa Nakamura Niedermeyer Nwachukwu Oberholtzer Okonkwo Súilleabháin "
    "Papadopoulos Pennyfeather Petrosyan Quattrocchi Radziwill Ravenscroft Rutherfurd Sangiovanni Satterthwaite Schwarzkopf Shaughnessy "
    "Sigurdsson Skłodowska Sommerfeld Szymborska Thistlewood Thorvaldsen Trevelyan Uchendu Urquhart Vandenberghe Vasquezano "
    "Wadsworth Weatherby Wetherspoon Wintersmith Woźniakowska Xanthopoulos Yevtushenko Zabłocki Zimmermann"
)
COMPANY_FIRST = _words(
    "Aldergate Ambrosia Arcturus Basalt Bellwether Borealis Brightwater Calliope Cardinal Cobalt Copperfield Corvus Driftwood Eastmoor "
    "Ember Fallow Fernhill Foxglove Gannet Granite Halcyon Harrow Heron Hollow Ironbark Juniper Kestrel Larkspur Lantern Lodestar "
    "Marigold Meridian Millrace Nimbus Northwind Obsidian Orchard Osprey Palisade Pemberton Quarry Redwood Saffron Sable Silverbirch "
    "Solstice Starling Tamarind Thornbury Tidewater Umber Verdigris Wayfarer Westerly Whitestone Windmill Yarrow Zephyr"
)
COMPANY_LAST = _words(
    "Analytics Brands Foods Freight Health Industries Insurance Labs Logistics Media Mobility Partners Retail Studios Systems"
)


def ascii_slug(text: str) -> str:
    """``Ó Súilleabháin`` as ``osuilleabhain``, for addresses."""
    special = text.replace("ł", "l").replace("Ł", "L")
    plain = unicodedata.normalize("NFKD", special).encode("ascii", "ignore").decode().lower()
    return "".join(c for c in plain if c.isalnum())


def full_name(rng: random.Random) -> tuple[str, str]:
    return rng.choice(FIRST), rng.choice(LAST)


def email(rng: random.Random, first: str, last: str, number: int, domain: str | None = None) -> str:
    """A unique address: the number is the person's."""
    where = domain or rng.choice(("example.com", "example.org", "mail.example.net"))
    return f"{ascii_slug(first)}.{ascii_slug(last)}{number}@{where}"


def phone(rng: random.Random) -> str:
    """A number of the ranges that regulators keep for drama."""
    if rng.random() < 0.5:
        return f"+44 7700 900{rng.randrange(1000):03d}"
    return f"+1 {rng.randrange(201, 990)} 555 01{rng.randrange(100):02d}"


def company(number: int) -> str:
    """The company with this number: a different name for each up to the number of pairs."""
    first = COMPANY_FIRST[number % len(COMPANY_FIRST)]
    last = COMPANY_LAST[(number // len(COMPANY_FIRST) + number) % len(COMPANY_LAST)]
    lap = number // (len(COMPANY_FIRST) * len(COMPANY_LAST))
    return f"{first} {last}" + (f" {lap + 1}" if lap else "")
