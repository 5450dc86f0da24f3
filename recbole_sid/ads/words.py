"""The words of the synthetic ads: the tree of categories, what goods are like, and phrases."""

from __future__ import annotations

import numpy as np

# Industry, category, kinds: three levels.
TREE: dict[str, dict[str, str]] = {
    "household": {
        "tableware": "tea cup, dinner plate, soup bowl, wine glass, cutlery set",
        "cookware": "frying pan, stock pot, baking tray, pressure cooker, casserole",
        "kitchen appliances": "kettle, toaster, blender, espresso machine, air fryer",
        "bedding": "pillow, duvet, mattress topper, bed sheet, blanket",
        "cleaning": "vacuum cleaner, mop, laundry detergent, dish soap, trash bag",
        "lighting": "desk lamp, floor lamp, ceiling light, candle, night light",
    },
    "beauty": {
        "skin care": "face serum, moisturizer, sunscreen, clay mask, eye cream",
        "make-up": "lipstick, mascara, foundation, eyeliner, nail polish",
        "hair care": "shampoo, conditioner, hair dryer, hair oil, curling iron",
        "fragrance": "perfume, body mist, cologne, scented soap, bath salt",
        "shaving": "razor, shaving foam, beard trimmer, aftershave, epilator",
        "oral care": "toothbrush, toothpaste, mouthwash, dental floss, whitening strips",
    },
    "fashion": {
        "shoes": "sneakers, sandals, ankle boots, loafers, slippers",
        "dresses": "summer dress, evening gown, skirt, jumpsuit, maxi dress",
        "outerwear": "rain jacket, wool coat, parka, blazer, down vest",
        "accessories": "leather belt, silk scarf, sunglasses, beanie, gloves",
        "bags": "handbag, backpack, suitcase, wallet, tote bag",
        "jewelry": "necklace, earrings, bracelet, wedding ring, wrist watch",
    },
    "electronics": {
        "audio": "headphones, bluetooth speaker, soundbar, turntable, microphone",
        "computers": "laptop, monitor, keyboard, computer mouse, printer",
        "phones": "smartphone, phone case, charger, power bank, screen protector",
        "photography": "camera, tripod, camera lens, drone, memory card",
        "smart home": "smart bulb, thermostat, doorbell camera, robot vacuum, smart plug",
        "gaming": "game console, gaming chair, controller, graphics card, gaming headset",
    },
    "sports": {
        "running": "running shoes, running shorts, heart rate monitor, hydration vest, treadmill",
        "cycling": "road bike, bike helmet, bike lock, cycling jersey, bike pump",
        "fitness": "dumbbell, yoga mat, kettlebell, resistance band, rowing machine",
        "camping": "tent, sleeping bag, camping stove, headlamp, cool box",
        "water sports": "swimsuit, surfboard, swimming goggles, kayak, wetsuit",
        "winter sports": "skis, snowboard, ski goggles, ice skates, thermal underwear",
    },
    "food": {
        "coffee and tea": "coffee beans, green tea, instant coffee, herbal tea, cold brew",
        "snacks": "potato chips, protein bar, salted nuts, popcorn, rice crackers",
        "sweets": "dark chocolate, gummy bears, cookies, ice cream, honey",
        "drinks": "orange juice, sparkling water, craft beer, red wine, energy drink",
        "pantry": "olive oil, pasta, basmati rice, tomato sauce, spice mix",
        "meal delivery": "meal kit, salad box, frozen pizza, sushi box, soup subscription",
    },
    "children": {
        "toys": "building blocks, doll, puzzle, toy train, board game",
        "baby care": "diapers, baby bottle, baby lotion, pacifier, wet wipes",
        "strollers": "stroller, car seat, baby carrier, travel cot, diaper bag",
        "school": "school bag, pencil case, lunch box, notebook, colouring book",
        "children's clothes": "romper, pyjamas, rain boots, sun hat, winter overall",
        "learning": "coding kit, science kit, picture book, globe, flash cards",
    },
    "travel": {
        "hotels": "city hotel, beach resort, mountain lodge, spa hotel, hostel",
        "flights": "weekend flight, long-haul flight, business class, charter flight, flight pass",
        "cruises": "river cruise, ocean cruise, sailing trip, expedition cruise, ferry ticket",
        "tours": "walking tour, safari, wine tour, museum pass, diving trip",
        "car rental": "rental car, camper van, convertible, motor scooter, minibus",
        "luggage": "cabin trolley, garment bag, packing cubes, neck pillow, travel adapter",
    },
    "finance": {
        "banking": "checking account, savings account, credit card, debit card, joint account",
        "insurance": "car insurance, home insurance, travel cover, life insurance, pet insurance",
        "loans": "mortgage, car loan, student loan, personal loan, business loan",
        "investing": "index fund, trading app, pension plan, gold savings, robo advisor",
        "payments": "payment app, card reader, money transfer, gift card, prepaid card",
        "accounting": "tax software, invoice tool, payroll service, expense app, audit service",
    },
    "automotive": {
        "cars": "electric car, family van, sports car, compact car, pickup truck",
        "tyres": "winter tyres, summer tyres, wheel rims, snow chains, tyre inflator",
        "car care": "car wash kit, car wax, seat cover, floor mats, windscreen wipers",
        "motorcycles": "motorcycle, motorcycle helmet, riding jacket, electric scooter, moped",
        "car electronics": "dash cam, car stereo, navigation system, parking sensor, wall charger",
        "tools": "cordless drill, socket set, torque wrench, car jack, tool box",
    },
    "pets": {
        "dog food": "dry dog food, wet dog food, puppy food, dog treats, chew bone",
        "cat food": "dry cat food, wet cat food, kitten food, cat treats, cat milk",
        "pet care": "flea collar, pet shampoo, pet brush, nail clipper, cat litter",
        "pet furniture": "dog bed, cat tree, dog crate, scratching post, pet carrier",
        "aquarium": "fish tank, fish food, aquarium filter, aquarium plants, tank heater",
        "pet toys": "dog ball, laser pointer, catnip mouse, dog leash, feeding puzzle",
    },
    "software": {
        "security": "antivirus, password manager, vpn service, backup service, parental control",
        "office": "word processor, spreadsheet, note app, video meetings, cloud storage",
        "creative": "photo editor, video editor, music studio, font library, drawing app",
        "games": "puzzle game, strategy game, racing game, farming game, card game",
        "education": "language course, maths tutor, typing trainer, online degree, exam trainer",
        "streaming": "film streaming, music streaming, audiobook club, podcast app, sports channel",
    },
}

# What goods of an industry are said to be.
FEATURES: dict[str, str] = {
    "household": "stainless steel, dishwasher safe, energy saving, stackable, non-stick, handmade, "
    "cordless, easy to clean, glazed, space saving, cotton, bamboo",
    "beauty": "vitamin C, fragrance free, vegan, long lasting, waterproof, hyaluronic, skin "
    "tested, organic, for sensitive skin, aloe vera, matte, refillable",
    "fashion": "leather, linen, slim fit, hand stitched, recycled, water repellent, merino wool, "
    "vintage style, oversized, breathable, limited edition, silver plated",
    "electronics": "wireless, noise cancelling, 4K, fast charging, ultra thin, voice controlled, "
    "refurbished, high resolution, low latency, foldable, solar powered, silent",
    "sports": "lightweight, carbon fibre, quick dry, ergonomic, adjustable, waterproof, "
    "reflective, anti-slip, for beginners, professional, compact, insulated",
    "food": "organic, sugar free, single origin, gluten free, plant based, freshly roasted, low "
    "salt, traditional recipe, high protein, fair trade, spicy, no additives",
    "children": "wooden, washable, BPA free, educational, soft, foldable, from six months, "
    "colourful, extra safe, cotton, musical, hypoallergenic",
    "travel": "all inclusive, family friendly, free cancellation, near the sea, adults only, last "
    "minute, with breakfast, pet friendly, guided, luxury, budget, eco certified",
    "finance": "no monthly fee, instant approval, cash back, fixed rate, fully online, "
    "low interest, worldwide cover, student rate, no paperwork, flexible terms, secure, with bonus",
    "automotive": "hybrid, all season, heavy duty, easy to install, low emission, universal fit, "
    "leather trim, with warranty, brushless, weatherproof, night vision, premium",
    "pets": "grain free, chew proof, for small breeds, natural, odour free, machine washable, with "
    "salmon, for seniors, orthopaedic, hypoallergenic, self cleaning, vet approved",
    "software": "free trial, open source, offline mode, family plan, end-to-end encrypted, no ads, "
    "cross platform, lifetime licence, beginner friendly, AI powered, award winning, multiplayer",
}

# Words without meaning, which all ads share.
TITLES = (
    "{brand} {model} {kind}",
    "{model}: the {first} {kind}",
    "{first} {kind} by {brand}",
    "New {kind} {model}, {first}",
    "{kind} {model} | {brand}",
    "{brand}: {first}, {second} {kind}",
    "Discover the {model} {kind}",
    "{model} {kind}, {second} and {first}",
)
BODIES = (
    "{offer}: {kind} {model}, {first}, {second} and {third}. {call}.",
    "{second} and {third}: the {kind} that {brand} is known for. {call}.",
    "Looking for a {kind}? {model} is {first} and {third}. {offer}.",
    "{brand} {model}. {third}, {first}. {offer}. {call}.",
    "The best of {category}: {model}, {second}, {first}. {call}.",
    "{call}: {first} {kind}, now also {third}. {offer}.",
)
OFFERS = (
    *("Free shipping", "Only this week", "Up to 30% off", "New in store", "Save today"),
    *("Two for one", "While stocks last", "Our bestseller", "Try it for 30 days", "Members save"),
)
CALLS = (
    *("Order now", "Shop today", "Learn more", "Get yours", "See the offer", "Find out more"),
    *("Start here", "Click to save", "Visit our shop", "Do not miss it"),
)
_SYLLABLES = (
    "al ba bel bri ca cor da del do el fa fen ga gor ha hel in ja jo ka kel la len lo ma mer mi na "
    "nor o or pa pel qui ra rin ro sa sel si so ta tel ti tor u va vel vi vor wen xa ya zan ze zor"
)


def names(count: int, rng: np.random.Generator) -> np.ndarray:
    """Made-up names of two to four syllables, each once: object (count,)."""
    syllables = _SYLLABLES.split()
    found: dict[str, None] = {}
    while len(found) < count:
        drawn = rng.integers(len(syllables), size=(count, 4))
        lengths = rng.integers(2, 5, size=count)
        for row, length in zip(drawn.tolist(), lengths.tolist(), strict=True):
            found["".join(syllables[place] for place in row[:length]).capitalize()] = None
    made = np.empty(count, object)
    made[:] = list(found)[:count]
    return made
