"""The dashboards: states (traits), figures (pure pictures), views (anywidget) and labs that wire them together."""
