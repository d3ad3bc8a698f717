package org.edgehadanorm.demo;

import android.app.Activity;
import android.view.View;
import android.widget.AdapterView;
import android.widget.Spinner;
import java.util.Optional;

import org.edgehadanorm.core.Bundle;

/** The choice of a picture's size, which is there where the bundle has several. */
final class SizeForm implements AdapterView.OnItemSelectedListener {
    private final Activity activity;
    private final Session session;
    private final View part;
    private final Spinner size;
    private Optional<Bundle> shown = Optional.empty();

    SizeForm(Activity activity, Session session) {
        this.activity = activity;
        this.session = session;
        part = activity.findViewById(R.id.size_part);
        size = (Spinner) activity.findViewById(R.id.size);
        size.setOnItemSelectedListener(this);
    }

    void show(State state) {
        SizeContent content = new SizeContent(state);
        Fields.visible(part, content.asks());
        size.setEnabled(content.canChange());
        if (!state.bundle().equals(shown)) {
            shown = state.bundle();
            Fields.choices(activity, size, content.choices(), content.chosen());
        }
    }

    @Override
    public void onItemSelected(AdapterView<?> parent, View view, int position, long id) {
        new SizeContent(session.state()).other(position).ifPresent(session::resize);
    }

    @Override
    public void onNothingSelected(AdapterView<?> parent) {
        // There is always one.
    }
}
