"""Prompt sets in the bundled model's own vocabulary, and prompts of other subjects to calibrate with."""

ALL = "{noto|twemoji|flat|3d|line art} style"
FOUR = "{noto|twemoji|flat|3d} style"
THREE = "{noto|flat|3d} style"

SETS = {
    "faces of beasts": f"{{cat face|tiger face|fox face|wolf face|lion face|bear face}}, {FOUR}",
    "cattle and game": f"{{cow|ox|water buffalo|goat|ram|sheep|deer|moose|horse|donkey}}, {ALL}",
    "birds": f"{{rooster|penguin|eagle|duck|owl|parrot|swan|flamingo|peacock|goose}}, {ALL}",
    "sea": f"{{whale|octopus|fish|tropical fish|blowfish|dolphin|crab|shark|squid|lobster}}, {THREE}",
    "fruit": f"{{red apple|green apple|pear|peach|lemon|tangerine|banana|strawberry}}, {FOUR}",
    "vegetables": f"{{carrot|potato|broccoli|garlic|onion|cucumber|avocado|hot pepper}}, {ALL}",
    "sweets": f"{{doughnut|cookie|chocolate bar|candy|lollipop|shortcake|birthday cake|pie|cupcake}}, {THREE}",
    "road": "{bus|minibus|ambulance|fire engine|police car|taxi|automobile|delivery truck|tractor|racing car|"
    f"trolleybus|pickup truck}}, {ALL}",
    "flowers": f"{{tulip|cherry blossom|rose|hibiscus|sunflower|blossom}}, {ALL}",
    "music": "{saxophone|guitar|trumpet|violin|banjo|accordion|flute|maracas}, {noto|twemoji|flat|line art} style",
    "clothes": f"{{top hat|necktie|t-shirt|jeans|dress|kimono|scarf|gloves|coat|socks}}, {FOUR}",
    "one style": "{cat face|red apple|fire engine|rocket|umbrella|hammer|tulip|hamburger|soccer ball|guitar|key|"
    "snowflake|electric light bulb|trophy|candle|bell|ghost|volcano|sailboat|crown|anchor|cactus|rainbow|lock}, noto "
    "style",
    "one subject each": "{tiger face, noto|strawberry, flat|bus, 3d|violin, twemoji|owl, line art|pie, noto|whale, "
    "flat|rose, 3d|carrot, twemoji|coat, line art|taxi, noto|crab, flat|lemon, 3d|flute, twemoji|cow, line art|"
    "duck, noto|candy, flat|onion, 3d|jeans, twemoji|rocket, line art|key, noto|ghost, flat|bell, 3d|crown, "
    "twemoji} style",
}

CALIBRATION = (
    "{rabbit face|panda face|pineapple|grapes|bicycle|helicopter|mushroom|spider|turtle|hot dog|croissant|camera|"
    f"television|magnet|axe|tent|european castle|snail|honeybee|mango}}, {ALL}"
)
