"""The files of a world: their names, the mapping, and the text that explains them."""

from __future__ import annotations

from recbole_sid.ads.behaviour import NEW_INTEREST
from recbole_sid.ads.live import (
    AGAIN,
    ANY,
    COMPANION,
    ELSEWHERE,
    FAVOURITE,
    INTERESTS,
    NEIGHBOUR,
    STAY,
)
from recbole_sid.ads.oracle import LATE_SHARE
from recbole_sid.ads.texts import SEPARATOR

NAME = "synthetic-ads"
FEED, LOG, TRUTH, WORLD = "ads.csv", "events.csv", "truth.csv", "world.json"
MAPPING, README = f"{NAME}.yaml", "README.txt"
VECTORS, VECTOR_IDS = "image_vectors.npy", "image_ids.txt"
_BY_KIND = 1 - ANY - AGAIN - COMPANION
_INTERESTS = ", ".join(f"{share:.0%}" for share in INTERESTS)

MAPPING_TEXT = f"""\
# SYNTHETIC advertisements, made by make-ads. From this folder's feed and log to RecBole's files:
#   python run_recbole_sid.py prepare --mapping={MAPPING} --output=data
items:
  files: {FEED}
  category_separator: "{SEPARATOR}"
  keep_all: true
  columns:
    item_id: ad_id
    title: headline
    text: body
    industry: industry
    category: category
    brand: brand
    advertiser: advertiser
    price: price
    others:                       # carried along, but no part of the text
      available_from: {{column: start, type: float}}
      available_until: {{column: end, type: float}}
      landing_page: {{column: landing_page, type: token}}
      campaign: {{column: campaign, type: token}}
      product: {{column: product, type: token}}   # which ads say the same: the truth
events:
  files: {LOG}
  columns: {{user_id: user, item_id: ad_id, event: event, time: time}}
  keep: [click, conversion]
  ignore: [impression]            # for click prediction: keep all three types, ignore none,
  positive: []                    # and let [click, conversion] be positive
  time_format: seconds
  repeated: first
minimum: {{user: 3, item: 1, core: false}}
"""

README_TEXT = f"""\
SYNTHETIC advertisements, made by the command make-ads of recbole_sid. No ad, brand, advertiser or
user in here exists. Results on these data say nothing about real ones unless compared with them.

{FEED:20} the feed, in the order in which ads arrive; start and end: the seconds between which
{"":20} an ad is shown. Some cells are empty and some titles misspelt, as in real feeds.
{LOG:20} impressions, clicks and conversions, by time (seconds since 1970, UTC).
{MAPPING:20} the mapping for the command prepare, which makes the data set {NAME} of them.
{TRUTH:20} the true product, category path and campaign of each ad, and the day of the log on
{"":20} which it arrives (below 0: before the log): for measurement only.
{WORLD:20} settings, counts, and how often an oracle foresees the next click: on the last
{"":20} {LATE_SHARE:.0%} of the days, from test_from on, for clicks on ads new to the user.
{VECTORS:20} with --image_dimensions: vectors that are alike for ads of one product, then of one
{"":20} kind, category and industry; their ids are in {VECTOR_IDS}.

How the next click comes about. Of the ads that are shown on that day, weighted by the popularity of
the product and the ad, and by freshness:
  {ANY:4.0%}  any ad;
  {AGAIN:4.0%}  an ad of the last product, which may be the same ad;
  {COMPANION:4.0%}  an ad of the product's companion, a fixed product of the same category;
  {_BY_KIND:4.0%}  an ad of one kind of good, in {FAVOURITE:.0%} of these of the favourite brand.
Everybody has one favourite brand in each category. Inside of a session the kind is the last one
({STAY:.0%}), its fixed neighbour in the category ({NEIGHBOUR:.0%}), or a fixed one in the same
industry ({ELSEWHERE:.0%}). A session begins with one of the user's four interests ({_INTERESTS}),
of which one has changed to a kind related to the last one in {NEW_INTEREST:.0%} of sessions.
What has no ad on that day gives up its share: the brand to its kind, the product and its companion
to the kind, the kind to any ad. A click on "any ad" changes nothing of the above.
"""
